//! Who is put where by itself: kept text, and a watch over all programs started, only while there are rules.
//!
//! The first rule that is about a process when it executes a program puts it into its group, if it is in none: whom somebody has
//! moved stays there.

mod connector;
mod sys;

use std::sync::Arc;

use parking_lot::Mutex;

pub use connector::Connector;

use super::caller::Caller;
use super::controller::Controller;
use super::group::GroupId;
use crate::errno::{Refusal, Why};
use crate::tree::values::{Rule, parse_rules};

/// The rules of the tree.
#[derive(Debug, Default)]
pub struct Rules {
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
    /// Gives the text as it was written.
    pub fn text(&self) -> String {
        self.inside.lock().text.clone()
    }

    /// Replaces all rules; an empty text removes them and ends the watch.
    ///
    /// # Errors
    /// EPERM for anybody but root, EINVAL, EOPNOTSUPP, and the kernel's if it tells us of no programs.
    pub fn replace(
        self: &Arc<Self>,
        controller: &Arc<Controller>,
        caller: &Caller,
        bytes: &[u8],
    ) -> Result<(), Refusal> {
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
            let (this, controller) = (Arc::downgrade(self), controller.clone());
            let on_exec = move |pid| {
                if let Some(rules) = this.upgrade() {
                    rules.apply(&controller, pid);
                }
            };
            started = Some(Connector::start(on_exec)?);
        }
        controller.state().save_rules(&text)?;
        inside.watch = started.or_else(|| inside.watch.take());
        if rules.is_empty() {
            inside.watch = None;
        }
        inside.rules = Arc::new(rules);
        inside.text = text;
        Ok(())
    }

    /// Takes over the rules of an earlier daemon.
    pub fn restore(self: &Arc<Self>, controller: &Arc<Controller>) {
        let text = controller.state().load_rules();
        if !text.is_empty()
            && let Err(error) = self.replace(controller, &Caller::DAEMON, text.as_bytes())
        {
            tracing::warn!(%error, "the rules of an earlier daemon are not in force");
        }
    }

    /// Puts a process that has just executed a program where its rule says.
    pub fn apply(&self, controller: &Arc<Controller>, pid: i32) {
        let rules = self.inside.lock().rules.clone();
        let Some(creds) = controller.host().creds(pid) else { return };
        let Ok(exe) = std::fs::read_link(format!("/proc/{pid}/exe")) else { return };
        let Some(rule) = rules.iter().find(|rule| rule.is_about(creds.ruid, &exe)) else { return };
        let Some(group) = controller.group_named(&rule.sched) else {
            tracing::debug!(group = rule.sched, pid, "a rule names a group that is not there");
            return;
        };
        if controller.locate(pid).is_none_or(|(_, at)| at != GroupId::HOST) {
            return;
        }
        if let Err(error) = controller.place(pid, group.id) {
            tracing::debug!(group = rule.sched, pid, %error, "a rule could not be carried out");
        }
    }
}
