//! Reading policy documents from files.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use sls_core::{Capabilities, Diagnostic, Diagnostics, Limits, PolicyLoader, PolicySet};

use crate::content;

/// Which documents to load.
#[derive(Clone, Debug)]
pub(crate) struct Documents {
    /// Whether the built-in content is the first layer.
    pub(crate) content: bool,
    /// The layers above it.
    pub(crate) files: Vec<PathBuf>,
}

impl Documents {
    /// The files, on the built-in content if it is asked for or there are none.
    pub(crate) fn of(files: &[PathBuf], content: bool) -> Self {
        Self { content: content || files.is_empty(), files: files.to_vec() }
    }

    /// Loads them all, against what this sensor can do.
    pub(crate) fn load(&self, capabilities: Capabilities) -> Result<PolicySet, Diagnostics> {
        self.load_with(PolicyLoader::new().capabilities(capabilities))
    }

    /// The same for commands that show warnings: those of links on this host are among them, for which each path is
    /// looked up.
    pub(crate) fn load_for_this_host(&self, capabilities: Capabilities) -> Result<PolicySet, Diagnostics> {
        self.load_with(PolicyLoader::new().capabilities(capabilities).resolve_links(resolve_links))
    }

    fn load_with(&self, mut loader: PolicyLoader) -> Result<PolicySet, Diagnostics> {
        let limits = Limits::default();
        if self.content {
            for (name, text) in content::DOCUMENTS {
                loader = loader.content(*name, *text);
            }
        }
        let mut unreadable = Diagnostics::default();
        for file in &self.files {
            match read(file, limits.document_bytes) {
                Ok(bytes) => loader = loader.document(file.display().to_string(), bytes),
                Err(error) => unreadable.push(Diagnostic::unreadable(&file.display().to_string(), error)),
            }
        }
        if unreadable.has_errors() { Err(unreadable) } else { loader.limits(limits).load() }
    }
}

/// Where a path leads on this host.
fn resolve_links(path: &str) -> Option<String> {
    fs::canonicalize(path).ok()?.into_os_string().into_string().ok()
}

/// Reads a file, but no more than the loader would take: a document may be an endless device.
pub(crate) fn read(path: &Path, limit: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
