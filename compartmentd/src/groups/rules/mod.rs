//! Who is put where by itself: kept text, and a watch over all programs started, only while there are rules.
//!
//! The first rule that is about a process when it executes a program puts it into its group, if it is in none: whom somebody has
//! moved stays there.

mod connector;
mod sys;

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use parking_lot::Mutex;

pub use connector::Connector;

use super::caller::Caller;
use super::controller::Controller;
use super::group::GroupId;
use super::host::Process;
use super::kind::Kind;
use crate::errno::{Refusal, Why};
use crate::pools::Pools;
use crate::tree::values::{Rule, parse_rules};

/// The rules of the tree.
#[derive(Debug)]
pub struct Rules {
    controller: Arc<Controller>,
    pools: Arc<Pools>,
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    text: String,
    rules: Arc<Vec<Rule>>,
    /// Ends the watch when dropped.
    watch: Option<Connector>,
}

impl Rules {
    /// Makes an empty set of rules over both kinds of groups.
    pub fn new(controller: &Arc<Controller>, pools: &Arc<Pools>) -> Self {
        Self { controller: controller.clone(), pools: pools.clone(), inside: Mutex::default() }
    }

    /// Gives the text as it was written.
    pub fn text(&self) -> String {
        self.inside.lock().text.clone()
    }

    /// Replaces all rules; an empty text removes them and ends the watch.
    ///
    /// # Errors
    /// EPERM for anybody but root, EINVAL, EOPNOTSUPP, and the kernel's if it tells us of no programs.
    pub fn replace(self: &Arc<Self>, caller: &Caller, bytes: &[u8]) -> Result<(), Refusal> {
        if !caller.is_root() {
            return Err(Refusal::new(Why::NotAllowed, "only root makes rules"));
        }
        let rules = parse_rules(bytes)?;
        let mut text = String::from_utf8_lossy(bytes).trim_end().to_owned();
        if !text.is_empty() {
            text.push('\n');
        }
        let mut inside = self.inside.lock();
        let mut started = None;
        if !rules.is_empty() && inside.watch.is_none() {
            let (this, later) = (Arc::downgrade(self), self.placing_later()?);
            let on_exec = move |pid| {
                if let Some(rules) = this.upgrade() {
                    rules.apply(pid, &later);
                }
            };
            started = Some(Connector::start(on_exec)?);
        }
        self.controller.state().save_rules(&text)?;
        inside.watch = started.or_else(|| inside.watch.take());
        if rules.is_empty() {
            inside.watch = None;
        }
        inside.rules = Arc::new(rules);
        inside.text = text;
        Ok(())
    }

    /// Takes over the rules of an earlier daemon.
    pub fn restore(self: &Arc<Self>) {
        let text = self.controller.state().load_rules();
        if !text.is_empty()
            && let Err(error) = self.replace(&Caller::DAEMON, text.as_bytes())
        {
            tracing::warn!(%error, "the rules of an earlier daemon are not in force");
        }
    }

    /// Starts the thread that puts processes into mem_groups, which may take a while: what else is executed meanwhile must not be missed. It ends
    /// when nobody can tell it more.
    fn placing_later(&self) -> Result<Sender<(String, Process)>, Refusal> {
        let (tx, rx) = channel::<(String, Process)>();
        let pools = self.pools.clone();
        let place = move || rx.into_iter().for_each(|(name, process)| put(&pools, &name, &process));
        std::thread::Builder::new().name("mem-rules".into()).spawn(place)?;
        Ok(tx)
    }

    /// Puts a process that has just executed a program where its rule says; into a mem_group, by `later`.
    fn apply(&self, pid: i32, later: &Sender<(String, Process)>) {
        let rules = self.inside.lock().rules.clone();
        let Some(process) = self.controller.host().process(pid) else { return };
        let Some(creds) = self.controller.host().creds(pid) else { return };
        let Ok(exe) = std::fs::read_link(format!("/proc/{pid}/exe")) else { return };
        let Some(rule) = rules.iter().find(|rule| rule.is_about(creds.ruid, &exe)) else { return };
        if let Some(name) = &rule.sched {
            put(&self.controller, name, &process);
        }
        if let Some(name) = &rule.mem {
            let _ = later.send((name.clone(), process));
        }
    }
}

fn put<K: Kind>(controller: &Arc<Controller<K>>, name: &str, process: &Process) {
    let pid = process.pid;
    let Some(group) = controller.group_named(name) else {
        tracing::debug!(group = name, pid, "a rule names a group that is not there");
        return;
    };
    let is_free = |(now, at): (Process, GroupId)| now.start_time == process.start_time && at == GroupId::HOST;
    if !controller.locate(pid).is_some_and(is_free) {
        return;
    }
    if let Err(error) = controller.place(pid, group.id) {
        tracing::debug!(group = name, pid, %error, "a rule could not be carried out");
    }
}
