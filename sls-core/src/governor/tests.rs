use proptest::prelude::*;

use super::*;

const SECOND: u64 = 1_000_000_000;
const LIMIT: u64 = 256 << 20;

/// Observes once a second.
struct Sensor {
    governor: Governor,
    time: u64,
    cpu: u64,
}

impl Sensor {
    fn new(limits: GovernorLimits) -> Self {
        let mut governor = Governor::new(limits);
        governor.observe(Usage::default());
        Self { governor, time: 0, cpu: 0 }
    }

    /// A second on two CPUs, of which it takes so much of one.
    fn second(&mut self, cpu_percent: u64, memory: u64) -> Option<Economy> {
        self.time += SECOND;
        self.cpu += SECOND * cpu_percent / 100;
        self.governor.observe(Usage::new(self.time, self.cpu, memory, 2))
    }

    fn window(&mut self, cpu_percent: u64, memory: u64) -> Economy {
        for _ in 0..10 {
            self.second(cpu_percent, memory);
        }
        self.governor.economy()
    }
}

#[test]
fn telemetry_is_shed_before_activity_and_then_it_says_that_it_is_not_enough() {
    let mut sensor = Sensor::new(GovernorLimits::default());
    let mut steps = Vec::new();
    for _ in 0..4 {
        let economy = sensor.window(40, 0);
        steps.push((economy.shedding, economy.over_limit));
    }
    assert_eq!(
        steps,
        [
            (Shedding::Telemetry, false),
            (Shedding::Activity, false),
            (Shedding::Activity, true),
            (Shedding::Activity, true)
        ]
    );
    assert_eq!(sensor.governor.economy().cpu_ppm, 200_000);
    assert_eq!(sensor.governor.changes(), 3, "what stays as it is was told again");
}

#[test]
fn a_burst_is_averaged_out() {
    let mut sensor = Sensor::new(GovernorLimits::default());
    // Half of the machine for nearly a second of ten.
    assert_eq!(sensor.second(95, 0), None);
    for _ in 0..20 {
        assert_eq!(sensor.second(0, 0), None);
    }
}

#[test]
fn use_within_the_limits_never_takes_a_step() {
    let mut sensor = Sensor::new(GovernorLimits::default());
    for _ in 0..100 {
        assert!(sensor.window(10, LIMIT / 8 * 7).is_none());
    }
    assert_eq!(sensor.governor.changes(), 0);
}

#[test]
fn without_limits_nothing_is_given_up() {
    let mut sensor = Sensor::new(GovernorLimits::default().cpu_ppm(None).memory_bytes(None));
    for _ in 0..10 {
        assert!(sensor.window(200, 1 << 40).is_none());
    }
}

#[test]
fn caches_shrink_before_events_are_left_out() {
    let mut sensor = Sensor::new(GovernorLimits::default());
    let mut memory = LIMIT / 16 * 15;
    let mut steps = Vec::new();
    for _ in 0..7 {
        let economy = sensor.window(0, memory);
        steps.push((economy.retention, economy.shedding, economy.over_limit));
        memory += LIMIT / 16;
    }
    use Retention as R;
    use Shedding as S;
    assert_eq!(
        steps,
        [
            (R::ShortTexts, S::Nothing, false),
            (R::FewProcesses, S::Nothing, false),
            (R::LittleHistory, S::Nothing, false),
            (R::LittleHistory, S::Telemetry, false),
            (R::LittleHistory, S::Activity, false),
            (R::LittleHistory, S::Activity, true),
            (R::LittleHistory, S::Activity, true),
        ]
    );
}

/// An allocator does not give everything back.
#[test]
fn memory_that_no_longer_grows_costs_no_events() {
    let mut sensor = Sensor::new(GovernorLimits::default());
    for _ in 0..100 {
        assert_eq!(sensor.window(0, LIMIT + 1).shedding, Shedding::Nothing);
    }
    let economy = sensor.governor.economy();
    assert_eq!((economy.retention, economy.over_limit), (Retention::LittleHistory, true));
    assert!((0..40).any(|_| sensor.window(0, LIMIT / 2).is_none()));
}

#[test]
fn a_clock_that_stands_still_or_a_counter_that_steps_back_is_no_use() {
    let mut governor = Governor::new(GovernorLimits::default().window(Duration::ZERO));
    for _ in 0..3 {
        assert_eq!(governor.observe(Usage::new(SECOND, 5 * SECOND, 0, 0)), None);
    }
    assert_eq!(governor.observe(Usage::new(2 * SECOND, 0, 0, 0)), None);
    assert_eq!(governor.economy().cpu_ppm, 0);
}

proptest! {
    /// One step at most, and not within a window after the last one.
    #[test]
    fn steps_are_small_and_slow(seconds in prop::collection::vec((0u64..=200, 0..2 * LIMIT), 1..400)) {
        let mut sensor = Sensor::new(GovernorLimits::default());
        let mut before = Economy::default();
        let mut last = 0;
        for (cpu, memory) in seconds {
            let Some(economy) = sensor.second(cpu, memory) else { continue };
            prop_assert!(sensor.time - last >= 10 * SECOND);
            prop_assert!((economy.shedding as usize).abs_diff(before.shedding as usize) <= 1);
            prop_assert!((economy.retention as usize).abs_diff(before.retention as usize) <= 1);
            (before, last) = (economy, sensor.time);
        }
    }

    /// However bad it was, a quiet sensor gives nothing up after a while.
    #[test]
    fn quiet_brings_everything_back(windows in prop::collection::vec((0u64..=200, 0..4 * LIMIT), 0..60)) {
        let mut sensor = Sensor::new(GovernorLimits::default());
        for (cpu, memory) in windows {
            sensor.window(cpu, memory);
        }
        for _ in 0..MAX_CALM_WINDOWS as usize * Retention::ALL.len() {
            sensor.window(0, LIMIT / 2);
        }
        prop_assert!(sensor.governor.economy().is_none());
        prop_assert!(sensor.window(0, LIMIT / 2).is_none());
    }

    /// Who takes more never keeps more for it, as long as both only rise.
    #[test]
    fn more_use_gives_up_no_less(windows in prop::collection::vec((0u64..=100, 0u64..=100), 1..40)) {
        let [mut less, mut more] = [(); 2].map(|()| Sensor::new(GovernorLimits::default()));
        let mut highest = [Shedding::Nothing; 2];
        for (cpu, extra) in windows {
            highest[0] = highest[0].max(less.window(cpu, 0).shedding);
            highest[1] = highest[1].max(more.window(cpu + extra, 0).shedding);
        }
        prop_assert!(highest[1] >= highest[0]);
    }

    /// Between the limits of both directions nothing moves.
    #[test]
    fn fair_use_holds_what_was_reached(cpu in 6u64..=10, windows in 1usize..200) {
        let mut sensor = Sensor::new(GovernorLimits::default());
        sensor.window(40, 0);
        for _ in 0..windows {
            prop_assert_eq!(sensor.window(cpu, 0).shedding, Shedding::Telemetry);
        }
    }
}
