//! Applications and their tasks, by guest PID.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use guest_task::Action;
use guest_task::layout::SlotView;
use parking_lot::Mutex;

use super::USER_PIDS_MAX;
use super::client::Client;
use super::pids::Pids;
use crate::errno::{Refusal, Why};
use crate::groups::{Caller, Journal};
use crate::notices::{Notice, Notices, Side};

/// An application that shows tasks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct App {
    /// Its process.
    pub pid: i32,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// A task that was found by its guest PID.
#[derive(Clone, Debug)]
pub struct Found {
    client: Arc<Client>,
    slot: u32,
    id: u64,
    /// What its application says of it.
    pub view: SlotView,
}

/// All applications. Shared; every method may be called from several threads.
#[derive(Debug)]
pub struct Guests {
    state: Mutex<State>,
    reading_many: Mutex<()>,
    journal: Arc<Journal>,
    notices: Notices,
}

#[derive(Debug)]
struct State {
    pids: Pids,
    last_token: u64,
    clients: HashMap<u64, Known>,
    /// The connections of each process, in the order in which they came.
    apps: BTreeMap<i32, Vec<u64>>,
    by_pid: HashMap<i32, (u64, u32)>,
    users: HashMap<u32, Count>,
}

/// What a user's applications have.
#[derive(Clone, Copy, Default, Debug)]
struct Count {
    clients: usize,
    pids: usize,
}

/// A connection, and the numbers its tasks have got.
#[derive(Debug)]
struct Known {
    client: Arc<Client>,
    by_slot: HashMap<u32, (u64, i32)>,
}

/// For so many tasks at a time the others have to wait.
const PART: usize = 4_096;
/// With more slots than that, an application's tasks are read by one at a time.
const MANY: u64 = 65_536;

fn ended(pid: i32) -> Refusal {
    Refusal::new(Why::NoProcess, format!("guest task {pid} has ended"))
}

impl State {
    /// Gives the number of a task, a new one if it has none: `None` if its user's tasks have too many. A number that the slot's earlier task had is
    /// nobody's from now on.
    fn number(&mut self, token: u64, slot: u32, id: u64) -> Option<i32> {
        let known = self.clients.get(&token)?;
        if let Some((old, pid)) = known.by_slot.get(&slot).copied() {
            if old == id {
                return Some(pid);
            }
            // Whoever asks has looked before somebody else did.
            if old > id {
                return None;
            }
            self.forget(pid);
        }
        let known = self.clients.get_mut(&token)?;
        let count = self.users.entry(known.client.uid).or_default();
        if known.client.uid != 0 && count.pids >= USER_PIDS_MAX {
            return None;
        }
        count.pids += 1;
        let by_pid = &self.by_pid;
        let pid = self.pids.give(|pid| by_pid.contains_key(&pid));
        known.by_slot.insert(slot, (id, pid));
        self.by_pid.insert(pid, (token, slot));
        Some(pid)
    }

    fn forget(&mut self, pid: i32) {
        if let Some((token, slot)) = self.by_pid.remove(&pid)
            && let Some(known) = self.clients.get_mut(&token)
        {
            known.by_slot.remove(&slot);
            if let Some(count) = self.users.get_mut(&known.client.uid) {
                count.pids -= 1;
            }
        }
    }

    /// Forgets the numbers of tasks whose slots hold none any more: they count no longer for their user.
    /// Only numbers below `mark` are looked at: those that had been given before the slots were.
    fn forget_ended(&mut self, token: u64, mark: i32, is_live: impl Fn(u32) -> bool) {
        let Some(known) = self.clients.get(&token) else { return };
        let earlier = known.by_slot.iter().filter(|(_, (_, pid))| *pid < mark);
        let ended = earlier.filter(|(slot, _)| !is_live(**slot)).map(|(_, (_, pid))| *pid);
        ended.collect::<Vec<i32>>().into_iter().for_each(|pid| self.forget(pid));
    }

    fn clients_of(&self, app: i32) -> Vec<(u64, Arc<Client>)> {
        let tokens = self.apps.get(&app).map_or(&[][..], Vec::as_slice);
        tokens.iter().filter_map(|token| Some((*token, self.clients.get(token)?.client.clone()))).collect()
    }
}

impl Guests {
    /// Makes an empty registry, which keeps the numbers that it has given in `state_dir`.
    pub fn new(journal: Arc<Journal>, notices: Notices, state_dir: &Path) -> Self {
        let state = State {
            pids: Pids::new(state_dir.join("guest-pids")),
            last_token: 0,
            clients: HashMap::new(),
            apps: BTreeMap::new(),
            by_pid: HashMap::new(),
            users: HashMap::new(),
        };
        Self { state: Mutex::new(state), reading_many: Mutex::new(()), journal, notices }
    }

    /// Adds a connection; gives the token to remove it by.
    pub(super) fn add(&self, client: Arc<Client>) -> u64 {
        let (pid, uid) = (client.pid, client.uid);
        let mut state = self.state.lock();
        state.last_token += 1;
        let token = state.last_token;
        state.clients.insert(token, Known { client, by_slot: HashMap::new() });
        state.apps.entry(pid).or_default().push(token);
        state.users.entry(uid).or_default().clients += 1;
        drop(state);
        self.notices.post(Notice::Group { side: Side::Sched, name: pid.to_string() });
        self.journal.event([uid; 2], "registered", &[("application", &pid)]);
        token
    }

    /// Removes a connection, and with it its tasks.
    pub(super) fn remove(&self, token: u64) {
        let mut state = self.state.lock();
        let Some(known) = state.clients.remove(&token) else { return };
        for (_, pid) in known.by_slot.values() {
            state.by_pid.remove(pid);
        }
        let (pid, uid) = (known.client.pid, known.client.uid);
        if let Some(count) = state.users.get_mut(&uid) {
            count.clients -= 1;
            count.pids -= known.by_slot.len();
            if count.clients == 0 {
                state.users.remove(&uid);
            }
        }
        if let Some(tokens) = state.apps.get_mut(&pid) {
            tokens.retain(|t| *t != token);
            if tokens.is_empty() {
                state.apps.remove(&pid);
            }
        }
        drop(state);
        self.notices.post(Notice::Group { side: Side::Sched, name: pid.to_string() });
        self.journal.event([uid; 2], "unregistered", &[("application", &pid)]);
    }

    /// Counts the connections of a user that have handed a table over.
    pub(super) fn nr_clients(&self, uid: u32) -> usize {
        self.state.lock().users.get(&uid).map_or(0, |count| count.clients)
    }

    /// Lists the applications.
    pub fn apps(&self) -> Vec<App> {
        let state = self.state.lock();
        let first = |tokens: &Vec<u64>| state.clients.get(tokens.first()?).map(|known| known.client.clone());
        let clients = state.apps.values().filter_map(first);
        clients.map(|c| App { pid: c.pid, uid: c.uid, gid: c.gid }).collect()
    }

    /// Finds an application by its process.
    pub fn app(&self, pid: i32) -> Option<App> {
        let state = self.state.lock();
        let client = &state.clients.get(state.apps.get(&pid)?.first()?)?.client;
        Some(App { pid, uid: client.uid, gid: client.gid })
    }

    /// Lists the tasks of an application, each with its number. Tasks for which the user's numbers do not suffice are left out.
    pub fn list(&self, app: i32) -> Vec<i32> {
        let mut pids = Vec::new();
        for (token, client, mark) in self.clients_of(app) {
            let live = client.live_slots();
            let is_live = |slot| live.binary_search_by_key(&slot, |(slot, _)| *slot).is_ok();
            self.state.lock().forget_ended(token, mark, is_live);
            for part in live.chunks(PART) {
                let mut state = self.state.lock();
                pids.extend(part.iter().filter_map(|(slot, id)| state.number(token, *slot, *id)));
            }
        }
        pids.sort_unstable();
        pids
    }

    /// Reads all tasks of an application: each with its number, that of its parent, and what the application says of it.
    ///
    /// # Errors
    /// EBUSY if there are many, and somebody else reads many: it takes memory for a while.
    pub fn views(&self, app: i32) -> Result<Vec<(i32, i32, SlotView)>, Refusal> {
        let clients = self.clients_of(app);
        let nr_used: u64 = clients.iter().map(|(_, client, _)| u64::from(client.nr_used())).sum();
        let busy = || Refusal::new(Why::Busy, "somebody else reads the tasks of a large application");
        let _alone = match nr_used > MANY {
            true => Some(self.reading_many.try_lock().ok_or_else(busy)?),
            false => None,
        };
        let mut all = Vec::new();
        for (token, client, mark) in clients {
            let views = client.live_views();
            let is_live = |slot| views.binary_search_by_key(&slot, |(slot, _)| *slot).is_ok();
            self.state.lock().forget_ended(token, mark, is_live);
            let mut numbered = Vec::with_capacity(views.len());
            let mut views = views.into_iter().peekable();
            while views.peek().is_some() {
                let mut state = self.state.lock();
                let part = views.by_ref().take(PART);
                numbered.extend(
                    part.filter_map(|(slot, view)| Some((state.number(token, slot, view.id)?, view))),
                );
            }
            let mut numbered = numbered.into_iter().peekable();
            while numbered.peek().is_some() {
                let state = self.state.lock();
                let by_slot = state.clients.get(&token).map(|known| &known.by_slot);
                all.extend(numbered.by_ref().take(PART).map(|(pid, view)| {
                    let parent = view.parent.and_then(|parent| match parent.slot() {
                        0 => i32::try_from(parent.birth()).ok(),
                        slot => by_slot?.get(&slot).filter(|(id, _)| parent.is(*id)).map(|(_, pid)| *pid),
                    });
                    (pid, parent.unwrap_or(app), view)
                }));
            }
        }
        all.sort_unstable_by_key(|(pid, ..)| *pid);
        Ok(all)
    }

    /// The connections of an application, with the number from which on none was given yet.
    fn clients_of(&self, app: i32) -> Vec<(u64, Arc<Client>, i32)> {
        let state = self.state.lock();
        let mark = state.pids.next();
        state.clients_of(app).into_iter().map(|(token, client)| (token, client, mark)).collect()
    }

    /// Counts the tasks of an application, and its slots; gives no numbers.
    pub fn count(&self, app: i32) -> (usize, u64) {
        let clients = self.state.lock().clients_of(app);
        let slots = |c: &Client| {
            (0..c.nr_segments()).map(guest_task::layout::segment_slots).map(u64::from).sum::<u64>()
        };
        clients.iter().fold((0, 0), |(tasks, all), (_, c)| (tasks + c.live_slots().len(), all + slots(c)))
    }

    /// Finds a task of an application by its number.
    ///
    /// # Errors
    /// ESRCH if it has ended.
    pub fn find(&self, pid: i32) -> Result<Found, Refusal> {
        let (client, slot, id) = {
            let state = self.state.lock();
            let (token, slot) = state.by_pid.get(&pid).copied().ok_or_else(|| ended(pid))?;
            let known = state.clients.get(&token).ok_or_else(|| ended(pid))?;
            let (id, _) = known.by_slot.get(&slot).copied().ok_or_else(|| ended(pid))?;
            (known.client.clone(), slot, id)
        };
        match client.view(slot, id) {
            Some(view) => Ok(Found { client, slot, id, view }),
            None => {
                self.state.lock().forget(pid);
                Err(ended(pid))
            }
        }
    }

    /// Gives the parent of a task: the number of another task of the same connection, a PID as the application says, or the application's own.
    pub fn parent(&self, found: &Found) -> i32 {
        let app = found.client.pid;
        let Some(parent) = found.view.parent else { return app };
        if parent.slot() == 0 {
            return i32::try_from(parent.birth()).unwrap_or(app);
        }
        let Some(id) = found.client.id_now(parent.slot()).filter(|id| parent.is(*id)) else { return app };
        let mut state = self.state.lock();
        let token = state.apps.get(&app).and_then(|tokens| {
            tokens
                .iter()
                .copied()
                .find(|t| state.clients.get(t).is_some_and(|known| Arc::ptr_eq(&known.client, &found.client)))
        });
        token.and_then(|token| state.number(token, parent.slot(), id)).unwrap_or(app)
    }

    /// Sends a task a signal; 0 only asks.
    ///
    /// # Errors
    /// ESRCH if it has ended, EPERM if it is another user's, EOPNOTSUPP if it does not take that signal, EAGAIN if its application does not take what it is sent.
    pub fn signal(&self, caller: &Caller, found: &Found, number: i32) -> Result<(), Refusal> {
        Self::check(caller, found)?;
        if number == 0 {
            return Ok(());
        }
        if found.view.signals & 1 << (number - 1) == 0 {
            return Err(Refusal::new(Why::Unsupported, "its application does not take that signal for it"));
        }
        found.client.send(found.slot, found.id, Action::Signal(number))
    }

    /// Asks for another nice.
    ///
    /// # Errors
    /// As [`Guests::signal`].
    pub fn renice(&self, caller: &Caller, found: &Found, nice: i8) -> Result<(), Refusal> {
        Self::check(caller, found)?;
        if !found.view.takes_nice {
            return Err(Refusal::new(Why::Unsupported, "its application gives it no other nice"));
        }
        found.client.send(found.slot, found.id, Action::Nice(nice))
    }

    fn check(caller: &Caller, found: &Found) -> Result<(), Refusal> {
        if caller.owns(found.client.uid) {
            Ok(())
        } else {
            Err(Refusal::new(Why::NotAllowed, "the guest task is another user's"))
        }
    }
}

impl Found {
    /// Gives the application that shows it.
    pub fn app(&self) -> App {
        App { pid: self.client.pid, uid: self.client.uid, gid: self.client.gid }
    }
}
