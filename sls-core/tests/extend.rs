//! Overrides that extend lists and policies instead of replacing them, and silenced warnings.

// A helper of a test fails like the test.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use sls_core::{Code, Diagnostics, PolicyLoader, PolicySet};

const CONTENT: &str = "
Tools: {type: paths, list: [/usr/bin/wget, /usr/bin/curl]}
Shells from services: {type: lineage, list: [[nginx, sh], [apache2, bash]]}
Download:
  policy: program
  rules: [match programName in $Tools, default ignore]
";

fn load(local: &str) -> Result<PolicySet, Diagnostics> {
    PolicyLoader::new().document("content.yaml", CONTENT).document("local.yaml", local).load()
}

fn codes(local: &str) -> Vec<Code> {
    load(local).unwrap_err().as_slice().iter().map(|finding| finding.code).collect()
}

fn replaced(local: &str) -> String {
    load(local).unwrap().effective_document().to_owned()
}

#[test]
fn lists_and_rules_are_extended() {
    let extended = load(
        "Tools: {listAdd: [/usr/bin/nc], listRemove: [/usr/bin/curl]}\n\
         Shells from services: {listRemove: [[nginx, sh]]}\n\
         Download: {rulesBefore: [ignore uid == 0, ignore uid == 1], priority: High}\n",
    )
    .unwrap();
    let rules: Vec<_> = extended.policy("Download").unwrap().rules.iter().map(|rule| &*rule.text).collect();
    assert_eq!(rules, ["ignore uid == 0", "ignore uid == 1", "match programName in $Tools", "default ignore"]);
    assert_eq!(extended.lists()["Shells from services"].len(), 1);
    let written_out = "Tools: {list: [/usr/bin/wget, /usr/bin/nc]}\n\
         Shells from services: {list: [[apache2, bash]]}\n\
         Download: {rules: [ignore uid == 0, ignore uid == 1, 'match programName in $Tools', default ignore], priority: High}\n";
    assert_eq!(extended.effective_document(), replaced(written_out));
    let again = PolicySet::from_yaml("effective.yaml", extended.effective_document()).unwrap();
    assert_eq!(again.hash(), extended.hash());
}

#[test]
fn an_extension_acts_on_what_the_same_override_replaces() {
    assert_eq!(replaced("Tools: {listAdd: [/b], list: [/a]}"), replaced("Tools: {list: [/a, /b]}"));
    // What is added is not removed, whatever the order in the document.
    assert_eq!(
        replaced("Tools: {listAdd: [/usr/bin/wget], listRemove: [/usr/bin/wget]}"),
        replaced("Tools: {list: [/usr/bin/curl, /usr/bin/wget]}")
    );
}

#[test]
fn extensions_that_do_nothing_are_errors() {
    assert_eq!(codes("Tool: {listAdd: [/a]}").first(), Some(&Code::NothingToExtend));
    assert_eq!(codes("Tools: {rulesBefore: [ignore uid == 0]}"), [Code::NothingToExtend]);
    assert_eq!(codes("Download: {listAdd: [/a]}"), [Code::NothingToExtend]);
    assert_eq!(codes("Tools: {listAdd: /a}"), [Code::WrongType]);
    let findings = load("Tools: {listRemove: [/usr/bin/wgett]}").unwrap_err();
    assert_eq!(findings.as_slice()[0].code, Code::BadEntry);
    assert_eq!(findings.as_slice()[0].help.as_deref(), Some("there is `/usr/bin/wget`"));
}

#[test]
fn warnings_are_silenced_by_object_and_code() {
    let everything =
        "Everything: {policy: program, rules: [default match]}\nAll: {policy: program, rules: [default match]}\n";
    let codes = |local: &str| {
        let found: Vec<_> = load(local).unwrap().warnings().as_slice().iter().map(|finding| finding.code).collect();
        found
    };
    assert_eq!(codes(everything), [Code::MatchesEverything, Code::MatchesEverything]);
    let silenced = everything.replacen("policy: program", "policy: program, silence: [SLS112]", 1);
    assert_eq!(codes(&silenced), [Code::MatchesEverything]);
    let other = everything.replace("policy: program", "policy: program, silence: [SLS113]");
    assert_eq!(codes(&other).len(), 2);
}

#[test]
fn content_leaves_out_what_the_sensor_cannot_do() {
    let content = "Connects: {policy: connect, rules: [default match]}\nRuns: {policy: program, rules: [match uid == 7, default ignore]}\n";
    let exec_only = || {
        sls_core::Capabilities::new(
            |kind| {
                if kind == sls_core::EventKind::Exec {
                    sls_core::Field::all().collect()
                } else {
                    sls_core::FieldSet::EMPTY
                }
            },
            sls_core::ActionSet::EMPTY,
        )
    };
    let set = PolicyLoader::new().capabilities(exec_only()).content("content.yaml", content).load().unwrap();
    assert_eq!(set.policies().len(), 1);
    assert_eq!(set.left_out().as_slice()[0].code, Code::Unsupported);
    let refused = PolicyLoader::new().capabilities(exec_only()).document("local.yaml", content).load().unwrap_err();
    assert_eq!(refused.as_slice()[0].code, Code::Unsupported);
    // Any other mistake in content is one.
    assert!(
        PolicyLoader::new()
            .capabilities(exec_only())
            .content("c.yaml", "P: {policy: connect, rules: [x]}")
            .load()
            .is_ok()
    );
    assert!(PolicyLoader::new().content("c.yaml", "P: {policy: connect, rules: [x]}").load().is_err());
}

#[test]
fn addresses_of_domain_names_survive_a_reload() {
    let load = |extra: &str| {
        PolicySet::from_yaml("p.yaml", format!("Servers: {{type: hosts, list: [a.example{extra}]}}")).unwrap()
    };
    let old = load("");
    old.host_names().for_each(|name| name.set_addresses(["192.0.2.7".parse().unwrap()]));
    let new = load(", b.example");
    new.adopt_addresses(&old);
    let addresses: Vec<_> = new.host_names().map(|name| name.addresses().len()).collect();
    assert_eq!(addresses, [1, 0]);
}

#[test]
fn types_that_nothing_ordinary_raises_may_match_by_default() {
    let warnings = |policy: &str| {
        load(&format!("X: {{policy: {policy}, rules: [default match]}}")).unwrap().warnings().as_slice().len()
    };
    assert_eq!(warnings("segfault") + warnings("selinux") + warnings("chmod, suid: true"), 0);
    assert_eq!((warnings("connect"), warnings("segfault, responseActions: [kill]")), (1, 1));
}
