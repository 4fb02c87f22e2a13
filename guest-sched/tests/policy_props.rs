//! Operation sequences against the policies: against naive models, and for what must hold whatever happens.
#![allow(clippy::unwrap_used)] // In a test a panic is the report.

mod naive;

use guest_sched::sim::ops::{Decoder, Op, Outcome, apply, apply_ops, see};
use guest_sched::{FairScheduler, Nanos, O1Scheduler, POLICIES, Policy, policy_by_name};
use naive::fair::NaiveFair;
use naive::o1::NaiveO1;
use proptest::collection::vec;
use proptest::prelude::*;

/// Applies the same operations to a policy and its model, which must answer and look alike throughout.
fn check_same(real: &mut dyn Policy, model: &mut dyn Policy, bytes: &[u8]) {
    let (mut now, mut model_now) = (Nanos::ZERO, Nanos::ZERO);
    let mut done = Vec::new();
    for op in Decoder::new(bytes) {
        if matches!(op, Op::SetVcpus(_)) {
            continue;
        }
        done.push(op);
        let outcome = apply(real, op, &mut now);
        assert_eq!(outcome, apply(model, op, &mut model_now), "{done:?}");
        real.check_invariants().unwrap();
        assert_eq!(see(real), see(model), "{done:?}");
        if let Outcome::Resched(resched) = outcome
            && let Some(vcpu) = resched.0
        {
            // Now and then the driver is late to pick; mostly it is not.
            if done.len() % 8 != 0 {
                let op = Op::Pick(vcpu);
                done.push(op);
                assert_eq!(apply(real, op, &mut now), apply(model, op, &mut model_now), "{done:?}");
                assert_eq!(see(real), see(model), "{done:?}");
            }
        }
    }
}

/// How many cases each property is tried with: `PROPTEST_CASES`, or few enough for every test run.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(256)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases()) })]

    #[test]
    fn o1_does_what_the_naive_model_does(bytes in vec(any::<u8>(), 0..2_000)) {
        check_same(&mut O1Scheduler::new(1).unwrap(), &mut NaiveO1::new(), &bytes);
    }

    #[test]
    fn fair_does_what_the_naive_model_does(bytes in vec(any::<u8>(), 0..2_000)) {
        check_same(&mut FairScheduler::new(1).unwrap(), &mut NaiveFair::new(), &bytes);
    }

    #[test]
    fn any_sequence_leaves_every_policy_whole(bytes in vec(any::<u8>(), 0..1_000), vcpus in 1_u16..4) {
        for name in POLICIES {
            apply_ops(&mut *policy_by_name(name, vcpus).unwrap(), &bytes);
        }
    }
}
