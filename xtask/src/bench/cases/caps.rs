//! Caps: how exact, and how long a member has to wait for its turn.

use anyhow::Result;

use crate::bench::ours::Group;
use crate::bench::peer::{CpuCgroup, CpuLimit};
use crate::bench::procs::Load;
use crate::bench::report::{On, Row, Target};
use crate::bench::{Bench, Series};

const PERIOD: u64 = 100_000;

/// Holds a cap for as long as it lives.
trait Guard {}

impl Guard for Group<'_> {}
impl Guard for CpuCgroup {}
impl Guard for CpuLimit {}

/// One busy loop that has the CPU for itself, held at some percent of it.
pub(super) fn caps(bench: &Bench) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut load = Load::gaps(bench.cpu)?;
    for percent in [5u32, 10, 25, 50, 90] {
        // Error in percent of the cap, longest wait in ms; of ours, the kernel's quota, cpulimit.
        let mut results: [[Series; 2]; 3] = Default::default();
        for turn in 0..bench.runs {
            for i in 0..3 {
                let who = (turn + i) % 3;
                let [error, wait] = measure(bench, &mut load, who, percent)?;
                results[who][0].0.push(error);
                results[who][1].0.push(wait);
            }
        }
        let [ours, quota, cpulimit] = results;
        let [ours_error, ours_wait] = ours;
        let [quota_error, quota_wait] = quota;
        let [limit_error, limit_wait] = cpulimit;
        let what = format!("(f) cap of {percent} %: error");
        rows.push(
            Row::new(&what, " %", 2, ours_error.clone())
                .beside("quota", quota_error)
                .target(On::Ours, Target::Near(0.0, 1.0)),
        );
        rows.push(Row::new(what, " %", 2, ours_error).beside("cpulimit", limit_error));
        let what = format!("(f) cap of {percent} %: longest wait");
        let target = if percent >= 10 { Target::AtMost(10.0) } else { Target::None };
        rows.push(
            Row::new(&what, " ms", 1, ours_wait.clone()).beside("quota", quota_wait).target(On::Ours, target),
        );
        rows.push(Row::new(what, " ms", 1, ours_wait).beside("cpulimit", limit_wait));
    }
    Ok(rows)
}

fn measure(bench: &Bench, load: &mut Load, who: usize, percent: u32) -> Result<[f64; 2]> {
    let guard = impose(bench, load.pid(), who, percent)?;
    bench.settle(1);
    std::thread::sleep(std::time::Duration::from_millis(500));
    load.ask()?;
    let before = load.cpu()?;
    let length = bench.pass();
    let used = (load.cpu()? - before) as f64;
    let longest = load.ask()?.into_iter().max().unwrap_or(0);
    drop(guard);
    let cap = length * f64::from(percent) / 100.0;
    Ok([100.0 * (used / cap - 1.0), longest as f64 / 1e6])
}

fn impose(bench: &Bench, pid: u32, who: usize, percent: u32) -> Result<Box<dyn Guard + '_>> {
    let quota = PERIOD * u64::from(percent) / 100;
    Ok(match who {
        0 => {
            let group = bench.daemon.group("cap", &[])?;
            group.write("cpu.max", &format!("{quota} {PERIOD}"))?;
            group.take(pid)?;
            Box::new(group)
        }
        1 => {
            let cgroup = bench.controller.group("cap")?;
            cgroup.cap(quota, PERIOD)?;
            cgroup.take(pid)?;
            Box::new(cgroup)
        }
        _ => Box::new(CpuLimit::start(pid, percent)?),
    })
}
