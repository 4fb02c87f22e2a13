//! The tables of Linux 2.6.18 (HZ = 1000), as printed in the documentation of `guest_o1_scheduler`.
#![allow(clippy::unwrap_used)] // In a test a panic is the report.

use guest_sched::o1::prio::{
    bonus, delta, effective_prio, granularity, interactive_sleep, is_interactive, load_weight, prio_of,
    static_prio, time_slice,
};
use guest_sched::{Class, Nanos, Nice, RtPriority};

fn nice(value: i32) -> u8 {
    static_prio(Nice::new(value).unwrap())
}

fn ms(ms: u64) -> Nanos {
    Nanos::from_millis(ms)
}

#[test]
fn slices_by_nice() {
    let table = [
        (-20, 800),
        (-15, 700),
        (-10, 600),
        (-5, 500),
        (-1, 420),
        (0, 100),
        (1, 95),
        (5, 75),
        (10, 50),
        (15, 25),
        (18, 10),
        (19, 5),
    ];
    for (value, length) in table {
        assert_eq!(time_slice(nice(value)), ms(length), "nice {value}");
    }
    for value in -20..19 {
        let step = time_slice(nice(value)) - time_slice(nice(value + 1));
        let expected = if value < -1 {
            20
        } else if value == -1 {
            320
        } else {
            5
        };
        assert_eq!(step, ms(expected), "nice {value}");
    }
}

#[test]
fn interactivity_by_nice() {
    // Nice range, delta, least bonus to be interactive (11: never), what one long sleep reaches.
    let table = [
        (-20..=-17, -3, 2, 299),
        (-16..=-13, -2, 3, 399),
        (-12..=-9, -1, 4, 499),
        (-8..=-5, 0, 5, 599),
        (-4..=-1, 1, 6, 699),
        (0..=3, 2, 7, 799),
        (4..=7, 3, 8, 899),
        (8..=11, 4, 9, 999),
        (12..=15, 5, 10, 1099),
        (16..=19, 6, 11, 1199),
    ];
    for (range, expected, least_bonus, ceiling) in table {
        for value in range {
            let static_prio = nice(value);
            assert_eq!(delta(static_prio), expected, "nice {value}");
            assert_eq!(interactive_sleep(static_prio), ms(ceiling), "nice {value}");
            let least =
                (0..=10).find(|&bonus| is_interactive(static_prio, effective_prio(static_prio, bonus)));
            assert_eq!(least.unwrap_or(11), least_bonus, "nice {value}");
        }
    }
}

#[test]
fn priority_by_nice_and_sleep_average() {
    let averages = [0, 200, 400, 500, 600, 700, 800, 900, 1000];
    // Priorities, and from which column on the task is interactive (9: never).
    let table = [
        (-20, [105, 103, 101, 100, 100, 100, 100, 100, 100], 1),
        (-10, [115, 113, 111, 110, 109, 108, 107, 106, 105], 2),
        (-5, [120, 118, 116, 115, 114, 113, 112, 111, 110], 3),
        (0, [125, 123, 121, 120, 119, 118, 117, 116, 115], 5),
        (5, [130, 128, 126, 125, 124, 123, 122, 121, 120], 6),
        (10, [135, 133, 131, 130, 129, 128, 127, 126, 125], 7),
        (15, [139, 138, 136, 135, 134, 133, 132, 131, 130], 8),
        (19, [139, 139, 139, 139, 138, 137, 136, 135, 134], 9),
    ];
    for (value, prios, first_interactive) in table {
        for (column, (&average, &expected)) in averages.iter().zip(&prios).enumerate() {
            let prio = prio_of(Class::Normal, nice(value), ms(average));
            assert_eq!(prio, expected, "nice {value}, {average} ms");
            assert_eq!(
                is_interactive(nice(value), prio),
                column >= first_interactive,
                "nice {value}, {average} ms"
            );
        }
    }
}

#[test]
fn bonus_is_one_step_per_100_ms() {
    assert_eq!(bonus(ms(0)), 0);
    assert_eq!(bonus(Nanos(99_999_999)), 0);
    assert_eq!(bonus(ms(100)), 1);
    assert_eq!(bonus(Nanos(999_999_999)), 9);
    assert_eq!(bonus(ms(1_000)), 10);
}

#[test]
fn granularity_doubles_with_each_step_of_bonus_below_nine() {
    for (bonus, expected) in [(10, 10), (9, 10), (8, 20), (7, 40), (6, 80), (5, 160), (4, 320), (0, 5_120)] {
        assert_eq!(granularity(bonus, 1), ms(expected), "bonus {bonus}");
        assert_eq!(granularity(bonus, 4), ms(4 * expected), "bonus {bonus}");
    }
}

#[test]
fn load_weights_follow_slices() {
    for (value, expected) in [(-20, 1_024), (0, 128), (19, 6)] {
        assert_eq!(load_weight(Class::Normal, nice(value)), expected, "nice {value}");
    }
    let rt = RtPriority::new(50).unwrap();
    assert_eq!(load_weight(Class::Fifo(rt), nice(0)), 1_024 + 64);
}

#[test]
fn realtime_priority_is_99_less_its_own() {
    for rt in [1, 50, 99] {
        let class = Class::Rr(RtPriority::new(rt).unwrap());
        assert_eq!(u32::from(prio_of(class, nice(0), ms(1_000))), 99 - rt);
    }
}
