//! Ordinary executions on a host: few programs often, many seldom.

use super::random::Random;

/// Programs of the host.
const PROGRAMS: usize = 2000;

/// Of those, the ones that start others.
const PARENTS: usize = 40;

const CONTAINERS: usize = 40;

/// The length that joined arguments are continued to.
const ARGUMENT_BYTES: usize = 66;

const SYLLABLES: [&str; 24] = [
    "ba", "de", "ko", "lu", "mi", "no", "pa", "ra", "se", "ta", "vu", "zi", "cor", "dal", "fen", "gra", "hul", "jin",
    "kel", "mor", "net", "pol", "ser", "tak",
];

pub(super) const DIRECTORIES: [&str; 8] = [
    "/usr/bin/",
    "/usr/sbin/",
    "/bin/",
    "/usr/local/bin/",
    "/usr/libexec/",
    "/usr/lib/systemd/",
    "/opt/agent/bin/",
    "/srv/",
];

const WORKING_DIRECTORIES: [&str; 6] = ["/", "/root", "/home/user", "/srv/app", "/var/lib/service", "/tmp"];

/// Programs that the rules' regular expressions begin with.
const WITH_SUSPICIOUS_START: [&[&str]; 4] =
    [&["curl", "-s"], &["base64", "-d"], &["openssl", "enc"], &["nc", "-l", "-p"]];

/// What a program was executed with, whatever engine looks at it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Execution {
    /// Path of the executable.
    pub exe: String,
    /// Arguments, with the program's name first.
    pub arguments: Vec<String>,
    /// `comm`: at most 15 bytes.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Process id.
    pub pid: u32,
    /// Process id of the parent.
    pub parent_pid: u32,
    /// Path of the parent's executable.
    pub parent: String,
    /// Id of the container; empty outside one.
    pub container: String,
    /// Working directory.
    pub directory: String,
}

impl Execution {
    /// The arguments, with a space between them.
    #[must_use]
    pub fn joined_arguments(&self) -> String {
        self.arguments.join(" ")
    }

    /// Its texts by the names that rules for other engines use, with `arguments` as joined before.
    #[must_use]
    pub fn texts<'a>(&'a self, arguments: &'a str) -> [(&'static str, &'a str); 6] {
        [
            ("exe", &self.exe),
            ("args", arguments),
            ("name", &self.name),
            ("parent", &self.parent),
            ("container", &self.container),
            ("cwd", &self.directory),
        ]
    }

    /// Its numbers by the names that rules for other engines use.
    #[must_use]
    pub fn numbers(&self) -> [(&'static str, u32); 2] {
        [("uid", self.uid), ("ppid", self.parent_pid)]
    }

    /// Makes it an execution of another program.
    pub(super) fn set_exe(&mut self, exe: &str) {
        let name = exe.rsplit('/').next().unwrap_or_default();
        self.name = name.chars().take(15).collect();
        exe.clone_into(&mut self.exe);
    }
}

/// What is the same for all executions.
#[derive(Debug)]
pub(super) struct Host {
    programs: Vec<String>,
    /// The chance of each program or one before it, in the order of `programs`.
    chances: Vec<f64>,
    containers: Vec<String>,
}

impl Host {
    pub(super) fn new() -> Self {
        let mut random = Random::new(1);
        let programs = (0..PROGRAMS).map(|_| path(&mut random, Parity::Even)).collect();
        let weights: Vec<f64> = (1..=PROGRAMS).map(|rank| 1.0 / rank as f64).collect();
        let total: f64 = weights.iter().sum();
        let chances = weights
            .iter()
            .scan(0.0, |sum, weight| {
                *sum += weight / total;
                Some(*sum)
            })
            .collect();
        let containers = (0..CONTAINERS).map(|_| (0..64).map(|_| hex(&mut random)).collect()).collect();
        Self { programs, chances, containers }
    }

    pub(super) fn execution(&self, random: &mut Random) -> Execution {
        let chance = random.unit();
        let rank = self.chances.partition_point(|below| *below < chance).min(PROGRAMS - 1);
        let container = if random.below(10) < 4 { random.pick(&self.containers).clone() } else { String::new() };
        let mut execution = Execution {
            exe: String::new(),
            arguments: Vec::new(),
            name: String::new(),
            uid: *random.pick(&[0, 0, 0, 33, 100, 1000, 1000, 1001]),
            pid: 5000 + random.below(60_000) as u32,
            parent_pid: 1 + random.below(5000) as u32,
            parent: random.pick(&self.programs[..PARENTS]).clone(),
            container,
            directory: (*random.pick(&WORKING_DIRECTORIES)).to_owned(),
        };
        execution.set_exe(&self.programs[rank]);
        execution.arguments = arguments(&execution.exe, random);
        execution
    }
}

fn arguments(exe: &str, random: &mut Random) -> Vec<String> {
    let mut arguments: Vec<String> = if random.once_in(20) {
        random.pick(&WITH_SUSPICIOUS_START).iter().map(ToString::to_string).collect()
    } else {
        vec![exe.rsplit('/').next().unwrap_or_default().to_owned()]
    };
    // Some have few arguments and some many.
    let wanted = ARGUMENT_BYTES / 4 + random.below(ARGUMENT_BYTES * 3 / 2);
    let mut bytes = arguments[0].len();
    while bytes < wanted {
        let argument = argument(random);
        bytes += 1 + argument.len();
        arguments.push(argument);
    }
    arguments
}

fn argument(random: &mut Random) -> String {
    match random.below(7) {
        0 => format!("-{}", random.pick(&["a", "v", "rf", "xzf", "o", "p"])),
        1 => format!("--{}={}", syllables(random), word(random, Parity::Even)),
        2 => path(random, Parity::Even),
        3 => random.below(100_000).to_string(),
        4 => format!("https://{}.example.org/{}", syllables(random), word(random, Parity::Even)),
        5 => format!("{}:{}", word(random, Parity::Even), 1000 + random.below(9000)),
        _ => {
            let pairs: Vec<_> = (0..2 + random.below(3)).map(|_| format!("{}{}", hex(random), hex(random))).collect();
            pairs.join(":")
        }
    }
}

/// Whether the number in a word is even, as in what ordinary executions have, or odd, as in what rules look for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Parity {
    Even,
    Odd,
}

pub(super) fn path(random: &mut Random, parity: Parity) -> String {
    format!("{}{}", random.pick(&DIRECTORIES), word(random, parity))
}

/// Syllables and a number: at most 12 bytes.
pub(super) fn word(random: &mut Random, parity: Parity) -> String {
    format!("{}{}", syllables(random), random.below(500) * 2 + parity as usize)
}

pub(super) fn hex(random: &mut Random) -> char {
    char::from(*random.pick(b"0123456789abcdef"))
}

fn syllables(random: &mut Random) -> String {
    (0..2 + random.below(2)).map(|_| *random.pick(&SYLLABLES)).collect()
}
