//! An alert from an event, the policy that responded, and what is known of the process and the host.

use std::collections::BTreeMap;
use std::net::IpAddr;

use uuid::Uuid;

use super::message::detection_message;
use super::{Alert, FileInfo, Location, MessageFields, NetworkInfo, Notification, ProcessInfo, Scope, rfc3339};
use crate::bytes::{display, display_at_most};
use crate::condition::SensorCondition;
use crate::engine::Host;
use crate::event::{Event, EventKind, ProcessKey, Value};
use crate::planner::MessageType;
use crate::policy::{Confidence, Policy};
use crate::process_table::{ProcessRecord, ProcessTable};
use crate::schema::{Field, FieldSet};

/// The most bytes of text that an alert has of the acting process: its arguments as the probe reads them, and paths.
pub const MAX_PROCESS_TEXT: usize = 16 << 10;

/// The most bytes of text that an alert has of each ancestor.
pub const MAX_ANCESTOR_TEXT: usize = 1 << 10;

/// The most arguments that an alert has of each process.
const MAX_ARGUMENTS: usize = 1024;

/// The most ancestors that an alert has.
pub const MAX_ALERT_LINEAGE: usize = 32;

/// The `policy_type` of alerts that no policy raised.
const SENSOR: &str = "sensor";

/// What every alert of an engine shares.
pub(crate) struct AlertContext {
    pub(crate) host: Host,
    pub(crate) generation: u64,
    /// Alerts made so far: part of each alert's id.
    sequence: u64,
}

impl AlertContext {
    pub(crate) fn new(host: Host, policy_hash: &str) -> Self {
        let mut context = Self { host, generation: 0, sequence: 0 };
        // An embedder's own version goes before the engine's.
        context.host.metadata.entry("sensor_version".into()).or_insert_with(|| env!("CARGO_PKG_VERSION").into());
        context.next_generation(policy_hash);
        context
    }

    pub(crate) fn next_generation(&mut self, policy_hash: &str) {
        self.generation += 1;
        let metadata = &mut self.host.metadata;
        metadata.insert("policy_hash".into(), policy_hash.into());
        metadata.insert("policy_generation".into(), self.generation.to_string());
    }

    /// The number of the next alert.
    pub(crate) fn next_sequence(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    pub(crate) fn alert_uuid(&self, sequence: u64, event: &Event, policy: &Policy) -> Uuid {
        let name = format!("alert {sequence} {} {} {}", event.time, event.process, policy.name);
        Uuid::new_v5(&self.host.session, name.as_bytes())
    }

    fn process_uuid(&self, key: ProcessKey) -> Uuid {
        Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("process {} {key}", self.host.boot_id).as_bytes())
    }

    fn start_time(&self, start: u64) -> u64 {
        self.host.boot_time.map_or(0, |boot| boot.saturating_add(start))
    }
}

/// What a policy found.
pub(crate) struct Finding<'a> {
    pub(crate) event: &'a Event,
    pub(crate) policy: &'a Policy,
    pub(crate) rule: &'a str,
    pub(crate) uncertain: FieldSet,
    /// Whether a renamed or linked file was looked at under its new name.
    pub(crate) new_name: bool,
    pub(crate) message_type: Option<MessageType>,
    /// Number of the alert.
    pub(crate) sequence: u64,
    pub(crate) lost_events: u64,
}

/// Makes the alert of a finding, without outcomes of actions.
pub(crate) fn build_alert(context: &mut AlertContext, processes: &mut ProcessTable, finding: &Finding<'_>) -> Alert {
    let Finding { event, policy, rule, uncertain, new_name, message_type, sequence, lost_events } = *finding;
    let uuid = context.alert_uuid(sequence, event, policy);
    let group = processes.alert_group(event.process).unwrap_or_else(|| {
        processes.set_alert_group(event.process, uuid);
        uuid
    });
    let detection = Notification {
        timestamp: rfc3339(event.time, context.host.utc_offset),
        name: policy.name.to_string(),
        uuid,
        message: detection_message(policy, event),
        message_fields: MessageFields { file_path: file_path(event, new_name), ..MessageFields::default() },
    };
    let lineage =
        processes.lineage(event.process).take(MAX_ALERT_LINEAGE).map(|record| ancestor_info(context, record)).collect();
    Alert {
        message_type,
        uuid,
        alert_group_id: group,
        timestamp: event.time,
        description: policy.alert_message.clone(),
        comments: policy.comments.clone(),
        priority: policy.priority.name(),
        confidence: policy.confidence.name(),
        categories: policy.categories.clone(),
        strategy_name: policy.name.to_string(),
        policy_type: policy.policy_type.name(),
        matched_rule: rule.to_owned(),
        scope: scope(event),
        location: location(&context.host, event),
        metadata: context.host.metadata.clone(),
        process_info: (event.process.pid != 0).then(|| process_info(context, event)),
        lineage,
        file_info: file_info(event),
        network_info: network_info(event),
        sensor_info: None,
        notifications: vec![detection],
        alert_labels: policy.alert_labels.clone(),
        uncertain: uncertain.iter().map(Field::name).collect(),
        untrusted: event.untrusted().iter().map(Field::name).collect(),
        lost_events,
        repeated: 0,
        last_timestamp: 0,
    }
}

/// Makes the alert of what the sensor reports of itself, which it found at `time`.
pub(crate) fn condition_alert(context: &mut AlertContext, condition: SensorCondition, time: u64) -> Alert {
    let name = format!("alert {} {time} {}", context.next_sequence(), condition.name());
    let uuid = Uuid::new_v5(&context.host.session, name.as_bytes());
    let message = condition.message();
    let notification = Notification {
        timestamp: rfc3339(time, context.host.utc_offset),
        name: condition.name().to_owned(),
        uuid,
        message: message.clone(),
        message_fields: MessageFields::default(),
    };
    Alert {
        message_type: Some(condition.message_type()),
        uuid,
        alert_group_id: uuid,
        timestamp: time,
        description: message,
        comments: String::new(),
        priority: condition.priority().name(),
        confidence: Confidence::High.name(),
        categories: Vec::new(),
        strategy_name: condition.name().to_owned(),
        policy_type: SENSOR,
        matched_rule: String::new(),
        scope: Scope::Node,
        location: Location {
            node_name: context.host.node_name.clone(),
            sensor_id: context.host.sensor_id.clone(),
            ..Location::default()
        },
        metadata: context.host.metadata.clone(),
        process_info: None,
        lineage: Vec::new(),
        file_info: None,
        network_info: None,
        sensor_info: Some(condition),
        notifications: vec![notification],
        alert_labels: BTreeMap::new(),
        uncertain: Vec::new(),
        untrusted: Vec::new(),
        lost_events: 0,
        repeated: 0,
        last_timestamp: 0,
    }
}

fn scope(event: &Event) -> Scope {
    if event.process.pid == 0 {
        Scope::Node
    } else if !event.text(Field::ContainerId).is_empty() {
        Scope::Container
    } else if event.number(Field::Euid) == Some(0) {
        Scope::RootProcess
    } else {
        Scope::Process
    }
}

fn location(host: &Host, event: &Event) -> Location {
    let text = |field| Some(display(event.text(field))).filter(|text| !text.is_empty());
    Location {
        node_name: host.node_name.clone(),
        sensor_id: host.sensor_id.clone(),
        container_id: text(Field::ContainerId),
        container_name: text(Field::ContainerName),
        image_id: text(Field::ImageId),
        image_name: text(Field::ImageName),
        kubernetes_pod: text(Field::KubernetesPod),
        kubernetes_namespace: text(Field::KubernetesNamespace),
        ..Location::default()
    }
}

fn process_info(context: &AlertContext, event: &Event) -> ProcessInfo {
    let mut texts = Texts::new(MAX_PROCESS_TEXT);
    let mut text = |key, field| texts.text(key, event.value(field));
    let mut info = ProcessInfo {
        pid: event.process.pid,
        ppid: event.parent.pid,
        name: text("name", Field::ProgramName),
        cwd: text("cwd", Field::ProgramDirectory),
        terminal: text("terminal", Field::Terminal),
        invoked_name: text("invoked_name", Field::InvokedName),
        script_name: text("script_name", Field::ScriptName),
        uid: event.number(Field::Uid),
        gid: event.number(Field::Gid),
        euid: event.number(Field::Euid),
        egid: event.number(Field::Egid),
        start_time: context.start_time(event.process.start),
        process_uuid: context.process_uuid(event.process),
        ..ProcessInfo::default()
    };
    info.args = texts.arguments(event.arguments(), event.truncated().contains(Field::ProgramArguments));
    info.truncated = texts.truncated;
    info
}

fn ancestor_info(context: &AlertContext, record: ProcessRecord<'_>) -> ProcessInfo {
    let mut texts = Texts::new(MAX_ANCESTOR_TEXT);
    let mut text = |key, field| texts.text(key, record.value(field));
    let mut info = ProcessInfo {
        pid: record.key().pid,
        ppid: record.parent().pid,
        name: text("name", Field::ProgramName),
        cwd: text("cwd", Field::ProgramDirectory),
        terminal: text("terminal", Field::Terminal),
        invoked_name: text("invoked_name", Field::InvokedName),
        script_name: text("script_name", Field::ScriptName),
        uid: record.uid(),
        gid: record.gid(),
        euid: record.euid(),
        egid: record.egid(),
        start_time: context.start_time(record.key().start),
        process_uuid: context.process_uuid(record.key()),
        ..ProcessInfo::default()
    };
    let cut = matches!(record.value(Field::ProgramArguments), Value::Text { truncated: true, .. });
    info.args = texts.arguments(record.arguments(), cut);
    info.truncated = texts.truncated;
    info
}

/// The file that a policy responded to.
fn file_path(event: &Event, new_name: bool) -> Option<String> {
    let field = if new_name { Field::NewFilePath } else { Field::FilePath };
    let path = event.text(field);
    (!path.is_empty()).then(|| display_at_most(path, MAX_PROCESS_TEXT).0)
}

fn file_info(event: &Event) -> Option<FileInfo> {
    let path = event.value(Field::FilePath);
    if matches!(path, Value::Absent) && event.kind != EventKind::File {
        return None;
    }
    let mut texts = Texts::new(MAX_PROCESS_TEXT);
    let mut info = FileInfo {
        path: texts.text("path", path),
        operation: name(event, Field::FileOperation),
        mode: event.number(Field::FileMode).map(|mode| format!("{mode:04o}")),
        uid: event.number(Field::FileUid),
        gid: event.number(Field::FileGid),
        device: event.number(Field::FileDevice),
        inode: event.number(Field::FileInode),
        age: event.number(Field::FileAge),
        ..FileInfo::default()
    };
    let new_path = texts.text("new_path", event.value(Field::NewFilePath));
    info.new_path = (!new_path.is_empty()).then_some(new_path);
    // Elsewhere it is the path itself.
    if !event.text(Field::ContainerId).is_empty() {
        let host = texts.text("host_path", event.value(Field::HostFilePath));
        let new_host = texts.text("new_host_path", event.value(Field::NewHostFilePath));
        info.host_path = (!host.is_empty()).then_some(host);
        info.new_host_path = (!new_host.is_empty()).then_some(new_host);
    }
    info.truncated = texts.truncated;
    Some(info)
}

fn network_info(event: &Event) -> Option<NetworkInfo> {
    matches!(event.kind, EventKind::Connect | EventKind::Accept | EventKind::Listen).then(|| NetworkInfo {
        protocol: name(event, Field::Protocol),
        remote_host: host(event, Field::RemoteHost),
        remote_port: event.number(Field::RemotePort),
        local_host: host(event, Field::LocalHost),
        local_port: event.number(Field::LocalPort),
        inbound_host: host(event, Field::InboundHost),
        inbound_port: event.number(Field::InboundPort),
        socket_path: name(event, Field::SocketPath),
    })
}

fn host(event: &Event, field: Field) -> Option<IpAddr> {
    match event.value(field) {
        Value::Host(address) => Some(address),
        _ => None,
    }
}

fn name(event: &Event, field: Field) -> Option<String> {
    let text = event.text(field);
    (!text.is_empty()).then(|| display(text))
}

/// The texts of one process, of which an alert has only so many bytes: what an attacker makes long must not make alerts
/// that fill the memory.
struct Texts {
    left: usize,
    truncated: Vec<&'static str>,
}

impl Texts {
    fn new(limit: usize) -> Self {
        Self { left: limit, truncated: Vec::new() }
    }

    fn text(&mut self, key: &'static str, value: Value<'_>) -> String {
        let Value::Text { bytes, truncated } = value else { return String::new() };
        self.part(key, bytes, truncated)
    }

    fn arguments<'a>(&mut self, arguments: impl Iterator<Item = &'a [u8]>, truncated: bool) -> Vec<String> {
        let mut taken = Vec::new();
        if truncated {
            self.truncated.push("args");
        }
        for argument in arguments {
            if self.left == 0 || taken.len() == MAX_ARGUMENTS {
                self.mark("args");
                break;
            }
            taken.push(self.part("args", argument, false));
        }
        taken
    }

    fn part(&mut self, key: &'static str, bytes: &[u8], truncated: bool) -> String {
        let (text, cut) = display_at_most(bytes, self.left);
        self.left -= text.len();
        if truncated || cut {
            self.mark(key);
        }
        text
    }

    fn mark(&mut self, key: &'static str) {
        if !self.truncated.contains(&key) {
            self.truncated.push(key);
        }
    }
}
