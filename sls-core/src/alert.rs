//! Alerts: one JSON object for each detection, with what was done about it.

mod build;
mod message;

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Serialize, Serializer};
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{OffsetDateTime, UtcOffset};
use uuid::Uuid;

pub(crate) use self::build::{AlertContext, Finding, build_alert, condition_alert};
pub use self::build::{MAX_ALERT_LINEAGE, MAX_ANCESTOR_TEXT, MAX_PROCESS_TEXT};
use crate::action::{ActionOutcome, ActionResult, Target};
use crate::breaker::CIRCUIT_BREAKER;
use crate::condition::SensorCondition;
use crate::planner::MessageType;
use crate::policy::{Confidence, Priority};

/// What stands in the place of a location that there is none of.
pub const NOT_AVAILABLE: &str = "N/A";

/// One alert. It serializes to the documented JSON object.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Alert {
    /// Under which message type it is emitted; none if its policy acts in silence.
    #[serde(skip)]
    pub message_type: Option<MessageType>,
    /// Unique id of the alert.
    pub uuid: Uuid,
    /// The same for all alerts of one process tree, once a first was raised in it.
    pub alert_group_id: Uuid,
    /// When the event happened, in nanoseconds since the epoch.
    pub timestamp: u64,
    /// The policy's `alertMessage`.
    pub description: String,
    /// The policy's `comments`.
    pub comments: String,
    /// The policy's priority.
    pub priority: &'static str,
    /// The policy's confidence.
    pub confidence: &'static str,
    /// The policy's categories.
    pub categories: Vec<String>,
    /// The policy's name.
    pub strategy_name: String,
    /// The policy's type.
    pub policy_type: &'static str,
    /// The rule that decided, or the first that could not be decided.
    pub matched_rule: String,
    /// How far the matter may reach.
    pub scope: Scope,
    /// Where it happened.
    pub location: Location,
    /// Facts about the host and the sensor.
    pub metadata: BTreeMap<String, String>,
    /// The acting process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process_info: Option<ProcessInfo>,
    /// Its ancestors, the parent first.
    pub lineage: Vec<ProcessInfo>,
    /// The file, of events that are about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_info: Option<FileInfo>,
    /// The connection or socket, of events that are about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_info: Option<NetworkInfo>,
    /// What the sensor reports of itself, in an alert that no policy raised.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sensor_info: Option<SensorCondition>,
    /// The detection, and one entry for each action.
    pub notifications: Vec<Notification>,
    /// The policy's labels.
    pub alert_labels: BTreeMap<String, String>,
    /// Fields that were not known when the event was decided.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub uncertain: Vec<&'static str>,
    /// Fields whose value was read from memory that the acting process can change, or was not resolved by the kernel.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub untrusted: Vec<&'static str>,
    /// Events of this class that were lost since the last alert.
    #[serde(skip_serializing_if = "is_zero")]
    pub lost_events: u64,
    /// For how many alerts this one stands, where repetitions are counted instead of sent
    /// ([`EngineBuilder::suppress_duplicates`](crate::EngineBuilder::suppress_duplicates)): it is the first of them. Zero otherwise.
    #[serde(skip_serializing_if = "is_zero")]
    pub repeated: u64,
    /// When the last of those happened, in nanoseconds since the epoch. Zero otherwise.
    #[serde(skip_serializing_if = "is_zero")]
    pub last_timestamp: u64,
}

// Serde hands out references.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// How far the matter may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub enum Scope {
    /// A process of an ordinary user.
    Process,
    /// A process with root's rights.
    RootProcess,
    /// A container.
    Container,
    /// The host.
    Node,
    /// Anything else.
    Other,
}

/// Where it happened. Values that there are none of serialize as `N/A`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Location {
    /// The host's name.
    #[serde(serialize_with = "or_not_available")]
    pub node_name: Option<String>,
    /// The sensor's id.
    #[serde(serialize_with = "or_not_available")]
    pub sensor_id: Option<String>,
    /// The container's id.
    #[serde(serialize_with = "or_not_available")]
    pub container_id: Option<String>,
    /// The container's name.
    #[serde(serialize_with = "or_not_available")]
    pub container_name: Option<String>,
    /// Id of the container's image.
    #[serde(serialize_with = "or_not_available")]
    pub image_id: Option<String>,
    /// Name of the container's image.
    #[serde(serialize_with = "or_not_available")]
    pub image_name: Option<String>,
    /// The Kubernetes pod.
    #[serde(serialize_with = "or_not_available")]
    pub kubernetes_pod: Option<String>,
    /// The pod's namespace.
    #[serde(serialize_with = "or_not_available")]
    pub kubernetes_namespace: Option<String>,
    /// The container's labels.
    pub container_labels: BTreeMap<String, String>,
}

// Serde's signature.
#[allow(clippy::ref_option)]
fn or_not_available<S: Serializer>(value: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(value.as_deref().filter(|text| !text.is_empty()).unwrap_or(NOT_AVAILABLE))
}

/// A process as alerts show it. Bytes that are no UTF-8 appear as `\xNN`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ProcessInfo {
    /// Process id in the host's PID namespace.
    pub pid: u32,
    /// The parent's process id.
    pub ppid: u32,
    /// Resolved path of the executable.
    pub name: String,
    /// argv.
    pub args: Vec<String>,
    /// Real user id.
    pub uid: Option<u64>,
    /// Real group id.
    pub gid: Option<u64>,
    /// Effective user id.
    pub euid: Option<u64>,
    /// Effective group id.
    pub egid: Option<u64>,
    /// Working directory.
    pub cwd: String,
    /// Controlling terminal.
    pub terminal: String,
    /// When the process started, in nanoseconds since the epoch; 0 if the time of boot is not known.
    pub start_time: u64,
    /// The same id in every alert about this process, also after the sensor was restarted.
    pub process_uuid: Uuid,
    /// The path that was passed to execve.
    pub invoked_name: String,
    /// The script, when the kernel ran one.
    pub script_name: String,
    /// Which of these are only a part: of `name` and `cwd` the end where the kernel's record was cut, of anything the
    /// start where the alert would become too long.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub truncated: Vec<&'static str>,
}

/// A file as alerts show it. Bytes that are no UTF-8 appear as `\\xNN`; what is not known is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct FileInfo {
    /// Its path; of a rename or link the old one.
    pub path: String,
    /// The new name of a rename or link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_path: Option<String>,
    /// Its path on the host, of a file of a container; of a rename or link the old one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_path: Option<String>,
    /// The new name of a rename or link on the host, in a container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_host_path: Option<String>,
    /// What was done to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// Its permission bits after that, in octal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Its owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u64>,
    /// Its group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid: Option<u64>,
    /// Device of its file system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<u64>,
    /// Its inode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inode: Option<u64>,
    /// Seconds since it was created or modified, of a new file that was executed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age: Option<u64>,
    /// Which of these are only a part.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub truncated: Vec<&'static str>,
}

/// A connection or socket as alerts show it; what is not known is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct NetworkInfo {
    /// The transport.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Destination of an outbound connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote_host: Option<IpAddr>,
    /// Its port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote_port: Option<u64>,
    /// The socket's own address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_host: Option<IpAddr>,
    /// Its port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_port: Option<u64>,
    /// Peer of an inbound connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inbound_host: Option<IpAddr>,
    /// Local port of an inbound connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inbound_port: Option<u64>,
    /// The address of a UNIX socket: of a connection the peer's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket_path: Option<String>,
}

/// One entry of an alert's notifications.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Notification {
    /// RFC 3339 with nanoseconds and offset.
    pub timestamp: String,
    /// The policy's name.
    pub name: String,
    /// The alert's.
    pub uuid: Uuid,
    /// What happened, or what was done, in words.
    pub message: String,
    /// The same as data.
    pub message_fields: MessageFields,
}

/// The data of a notification; what does not apply is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct MessageFields {
    /// The file of a file event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_path: Option<String>,
    /// The action's token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action_type: Option<&'static str>,
    /// What it acted on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action_target_type: Option<&'static str>,
    /// What came of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action_result: Option<&'static str>,
    /// Why, where that needs saying.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action_result_details: Option<String>,
    /// Where it was carried out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action_tier: Option<&'static str>,
    /// Microseconds from the event to the confirmation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action_latency_us: Option<u64>,
    /// The guard of which the alert tells that it holds a policy or the sensor in dry run from now on: `circuit-breaker`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guard: Option<&'static str>,
}

impl Alert {
    /// The alert as one line of JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Only strings, numbers and maps with string keys are written, which cannot fail.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Makes it the alert of a circuit breaker that tripped.
    pub(crate) fn take_trip(&mut self, message: String) {
        self.priority = Priority::High.name();
        self.confidence = Confidence::High.name();
        self.comments.clear();
        self.categories.clear();
        for notification in &mut self.notifications {
            notification.message.clone_from(&message);
            notification.message_fields.guard = Some(CIRCUIT_BREAKER);
        }
        self.description = message;
    }

    /// Adds what came of an action.
    pub(crate) fn add_outcome(&mut self, outcome: &ActionOutcome, utc_offset: i32) {
        let details = outcome.result.details();
        let acted = matches!(outcome.result, ActionResult::Successful | ActionResult::NotSuccessful { .. });
        let message_fields = MessageFields {
            action_type: Some(outcome.action.token()),
            action_target_type: outcome.action.target_type().map(|target| target.name()),
            action_result: Some(outcome.result.name()),
            action_result_details: Some(details.to_owned()).filter(|details| !details.is_empty()),
            action_tier: outcome.tier.filter(|_| acted).map(|tier| tier.name()),
            action_latency_us: outcome.time.filter(|_| acted).map(|time| time.saturating_sub(self.timestamp) / 1_000),
            ..MessageFields::default()
        };
        let notification = Notification {
            timestamp: rfc3339(outcome.time.unwrap_or(self.timestamp), utc_offset),
            name: self.strategy_name.clone(),
            uuid: self.uuid,
            message: outcome_message(outcome),
            message_fields,
        };
        self.notifications.push(notification);
    }
}

/// What was done, in words.
fn outcome_message(outcome: &ActionOutcome) -> String {
    let action = outcome.action;
    match &outcome.result {
        ActionResult::Successful => format!("Took responseAction: {action}"),
        ActionResult::DryRun { .. } => format!("Would have taken responseAction: {action}"),
        ActionResult::Refused { .. } => format!("Refused responseAction: {action}"),
        ActionResult::NotSuccessful { details } => match outcome.target {
            Target::Process { key, .. } => format!("unable to {action} process {}: {details}", key.pid),
            // A responder that knows the path says it all.
            Target::File { .. } if details.starts_with("unable to ") => details.clone(),
            Target::File { .. } => format!("unable to {action} the file: {details}"),
            Target::Container { .. } | Target::Operation | Target::Host | Target::Unidentified => {
                format!("unable to take responseAction {action}: {details}")
            }
        },
    }
}

/// RFC 3339 with nanoseconds and the offset given in seconds.
pub(crate) fn rfc3339(nanoseconds: u64, utc_offset: i32) -> String {
    const UTC: &[BorrowedFormatItem<'_>] =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:9]Z");
    const LOCAL: &[BorrowedFormatItem<'_>] = format_description!(
        "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:9][offset_hour sign:mandatory]:[offset_minute]"
    );
    // Nanoseconds since the epoch in 64 bits end in the year 2554, which is in range.
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(nanoseconds)).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let offset = UtcOffset::from_whole_seconds(utc_offset).unwrap_or(UtcOffset::UTC);
    time.to_offset(offset).format(if offset.is_utc() { UTC } else { LOCAL }).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::{Action, Permission, PlannedAction};
    use crate::event::ProcessKey;

    #[test]
    fn timestamps() {
        let nanoseconds = 1_555_480_117_995_942_203;
        assert_eq!(rfc3339(nanoseconds, -4 * 3600), "2019-04-17T01:48:37.995942203-04:00");
        assert_eq!(rfc3339(nanoseconds, 0), "2019-04-17T05:48:37.995942203Z");
        assert_eq!(rfc3339(1_000_000_000, 0), "1970-01-01T00:00:01.000000000Z");
        assert!(rfc3339(u64::MAX, 0).starts_with("2554-"));
    }

    #[test]
    fn failures_are_worded_as_documented() {
        let target = Target::Process { key: ProcessKey { pid: 2745, start: 1 }, pidfd_inode: None };
        let planned = PlannedAction::new(Action::Stop, target, Permission::Granted);
        let details = "no such process".to_owned();
        let outcome = ActionOutcome::new(&planned, ActionResult::NotSuccessful { details });
        assert_eq!(outcome_message(&outcome), "unable to stop process 2745: no such process");

        let planned = PlannedAction::new(Action::Quarantine, Target::File { device: 1, inode: 2 }, Permission::Granted);
        for (details, message) in [
            (
                "unable to open original path /etc/pwn: no such file or directory",
                "unable to open original path /etc/pwn: no such file or directory",
            ),
            ("not supported", "unable to quarantine the file: not supported"),
        ] {
            let outcome = ActionOutcome::new(&planned, ActionResult::not_successful(details));
            assert_eq!(outcome_message(&outcome), message);
        }
    }
}
