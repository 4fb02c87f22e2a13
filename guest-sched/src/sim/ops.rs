//! Operation sequences from bytes: one decoder for property tests and fuzz targets.

use crate::policy::{Fork, Policy, PolicyError, Resched};
use crate::types::{Class, Nanos, Nice, RtPriority, Sleep, TaskId, TaskInfo, TaskParams, Vcpu, Waker};

/// Tasks have numbers below this; most operations of a sequence then meet a task that exists.
pub const NR_TASKS: u32 = 12;
/// The most vcpus a sequence asks for.
pub const MAX_VCPUS: u16 = 4;

/// One call of a [`Policy`], legal or not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// Time passes.
    Pass(Nanos),
    /// [`Policy::add`].
    Add(TaskId, TaskParams),
    /// [`Policy::fork`]: parent, child.
    Fork(TaskId, TaskId, Fork),
    /// [`Policy::exit`]: task, parent.
    Exit(TaskId, Option<TaskId>),
    /// [`Policy::remove`].
    Remove(TaskId),
    /// [`Policy::wake`].
    Wake(TaskId, Waker),
    /// [`Policy::block`].
    Block(TaskId, Sleep),
    /// [`Policy::yield_now`].
    Yield(TaskId),
    /// [`Policy::charge`], without time passing.
    Charge(TaskId, Nanos),
    /// The vcpu's current runs for so long, or for its budget if that is shorter.
    Run(Vcpu, Nanos),
    /// [`Policy::pick_next`].
    Pick(Vcpu),
    /// [`Policy::balance`], whether it is due or not.
    Balance,
    /// [`Policy::set_nice`].
    SetNice(TaskId, Nice),
    /// [`Policy::set_class`].
    SetClass(TaskId, Class),
    /// [`Policy::set_vcpus`].
    SetVcpus(u16),
    /// [`Policy::set_slice`].
    SetSlice(Option<Nanos>),
}

/// What came of one operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Nothing to say.
    Done,
    /// Which vcpu should pick again.
    Resched(Resched),
    /// Who was chosen.
    Picked(Option<TaskId>),
    /// Which vcpus should pick again.
    Balanced(Vec<Vcpu>),
    /// The policy refused.
    Refused(PolicyError),
}

impl From<Result<Resched, PolicyError>> for Outcome {
    fn from(result: Result<Resched, PolicyError>) -> Self {
        result.map_or_else(Self::Refused, Self::Resched)
    }
}

/// Makes operations of bytes: every sequence of bytes is a sequence of operations.
#[derive(Clone, Debug)]
pub struct Decoder<'a> {
    bytes: &'a [u8],
}

impl<'a> Decoder<'a> {
    /// Starts at the first byte.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// Takes a byte; zero when there are no more.
    fn byte(&mut self) -> u8 {
        match self.bytes.split_first() {
            Some((&first, rest)) => {
                self.bytes = rest;
                first
            }
            None => 0,
        }
    }

    /// Takes a task number, now and then one that is too large.
    fn task(&mut self) -> TaskId {
        match self.byte() {
            255 => TaskId(TaskId::LIMIT),
            byte => TaskId(u32::from(byte) % NR_TASKS),
        }
    }

    /// Takes a length from 1 ns to some hours, all orders of magnitude alike.
    fn length(&mut self) -> Nanos {
        let (shift, mantissa) = (self.byte() % 38, self.byte());
        Nanos((u64::from(mantissa) | 256) << shift >> 8)
    }

    fn nice(&mut self) -> Nice {
        Nice::new(i32::from(self.byte() % 40) - 20).unwrap_or_default()
    }

    fn class(&mut self) -> Class {
        let byte = self.byte();
        let rt = RtPriority::new(1 + u32::from(byte) % 99);
        match (byte % 8, rt) {
            (0, Some(rt)) => Class::Fifo(rt),
            (1, Some(rt)) => Class::Rr(rt),
            (2, _) => Class::Batch,
            _ => Class::Normal,
        }
    }

    fn vcpu(&mut self) -> Vcpu {
        Vcpu(u16::from(self.byte()) % (MAX_VCPUS + 1))
    }
}

impl Iterator for Decoder<'_> {
    type Item = Op;

    fn next(&mut self) -> Option<Op> {
        if self.bytes.is_empty() {
            return None;
        }
        Some(match self.byte() % 32 {
            0..=2 => Op::Pass(self.length()),
            3..=4 => Op::Add(self.task(), TaskParams { nice: self.nice(), class: self.class() }),
            5..=6 => {
                let how = if self.byte().is_multiple_of(2) { Fork::Process } else { Fork::Thread };
                Op::Fork(self.task(), self.task(), how)
            }
            7 => match self.byte() % 4 {
                0 => Op::Remove(self.task()),
                1 => Op::Exit(self.task(), None),
                _ => Op::Exit(self.task(), Some(self.task())),
            },
            8..=12 => {
                let by = match self.byte() % 4 {
                    0 => Waker::Interrupt,
                    1 => Waker::Sync(self.vcpu()),
                    _ => Waker::Task,
                };
                Op::Wake(self.task(), by)
            }
            13..=15 => {
                let how = match self.byte() % 4 {
                    0 => Sleep::Uninterruptible,
                    1 => Sleep::NonInteractive,
                    _ => Sleep::Interruptible,
                };
                Op::Block(self.task(), how)
            }
            16 => Op::Yield(self.task()),
            17..=18 => Op::Charge(self.task(), self.length()),
            19..=22 => Op::Run(self.vcpu(), self.length()),
            23..=27 => Op::Pick(self.vcpu()),
            28 => Op::Balance,
            29 => Op::SetNice(self.task(), self.nice()),
            30 => Op::SetClass(self.task(), self.class()),
            _ => match self.byte() % 4 {
                0 => Op::SetSlice(None),
                1 => Op::SetSlice(Some(self.length())),
                _ => Op::SetVcpus(u16::from(self.byte()) % (MAX_VCPUS + 1)),
            },
        })
    }
}

/// Applies one operation; time passes in `now`.
pub fn apply(policy: &mut dyn Policy, op: Op, now: &mut Nanos) -> Outcome {
    match op {
        Op::Pass(length) => {
            *now = now.saturating_add(length);
            Outcome::Done
        }
        Op::Add(id, params) => policy.add(id, params, *now).map_or_else(Outcome::Refused, |()| Outcome::Done),
        Op::Fork(parent, child, how) => policy.fork(parent, child, how, *now).into(),
        Op::Exit(id, parent) => policy.exit(id, parent, *now).into(),
        Op::Remove(id) => policy.remove(id, *now).into(),
        Op::Wake(id, by) => policy.wake(id, by, *now).into(),
        Op::Block(id, how) => policy.block(id, how, *now).into(),
        Op::Yield(id) => policy.yield_now(id, *now).into(),
        Op::Charge(id, ran) => policy.charge(id, ran, *now).into(),
        Op::Run(vcpu, most) => match policy.current(vcpu) {
            Some(id) => {
                let ran = policy.budget(vcpu).map_or(most, |budget| budget.min(most));
                *now = now.saturating_add(ran);
                policy.charge(id, ran, *now).into()
            }
            None => Outcome::Done,
        },
        Op::Pick(vcpu) => policy.pick_next(vcpu, *now).map_or_else(Outcome::Refused, Outcome::Picked),
        Op::Balance => {
            let mut resched = Vec::new();
            policy.balance(*now, &mut resched);
            Outcome::Balanced(resched)
        }
        Op::SetNice(id, nice) => policy.set_nice(id, nice, *now).into(),
        Op::SetClass(id, class) => policy.set_class(id, class, *now).into(),
        Op::SetVcpus(count) => {
            policy.set_vcpus(count, *now).map_or_else(Outcome::Refused, |()| Outcome::Done)
        }
        Op::SetSlice(slice) => {
            policy.set_slice(slice);
            Outcome::Done
        }
    }
}

/// Everything a caller can see of a policy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    /// The tasks that exist.
    pub tasks: Vec<(TaskId, TaskInfo)>,
    /// Each vcpu's current and its budget.
    pub vcpus: Vec<(Option<TaskId>, Option<Nanos>)>,
    /// The number of runnable tasks.
    pub nr_running: usize,
}

/// Looks at a policy from outside.
pub fn see(policy: &dyn Policy) -> Seen {
    let infos = (0..NR_TASKS).map(TaskId).map(|id| policy.info(id).map(|info| (id, info)));
    let vcpus = (0..policy.vcpus()).map(Vcpu);
    Seen {
        tasks: infos.filter_map(Result::ok).collect(),
        vcpus: vcpus.map(|vcpu| (policy.current(vcpu), policy.budget(vcpu))).collect(),
        nr_running: policy.nr_running(),
    }
}

/// Applies a whole sequence and checks after each operation that the tables hold, that a refusal changed
/// nothing, and that a pick leaves no vcpu idle beside its own runnable tasks.
///
/// # Panics
/// If something does not hold: that is its purpose.
pub fn apply_ops(policy: &mut dyn Policy, bytes: &[u8]) {
    let mut now = Nanos::ZERO;
    for op in Decoder::new(bytes) {
        let before = see(policy);
        let outcome = apply(policy, op, &mut now);
        if let Err(what) = policy.check_invariants() {
            panic!("after {op:?}: {what}");
        }
        let after = see(policy);
        match outcome {
            Outcome::Refused(_) => assert_eq!(before, after, "{op:?} was refused"),
            Outcome::Picked(picked) => check_pick(op, picked, &after),
            _ => {}
        }
    }
}

/// Checks that the chosen task is current and that none was overlooked.
fn check_pick(op: Op, picked: Option<TaskId>, after: &Seen) {
    let Op::Pick(vcpu) = op else { return };
    assert_eq!(after.vcpus[vcpu.index()].0, picked, "{op:?}");
    let has_work = after
        .tasks
        .iter()
        .any(|(_, info)| info.vcpu == vcpu && info.state != crate::types::TaskState::Sleeping);
    assert_eq!(has_work, picked.is_some(), "{op:?}");
}
