//! What a service manager is told (`sd_notify(3)`), if one asks.

use std::time::Duration;

use sd_notify::NotifyState;

/// Tells that the tree is served.
pub(crate) fn ready() {
    tell(&[NotifyState::Ready, NotifyState::Status("serving the control tree")]);
}

/// Tells that the daemon ends.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Tells that the daemon lives.
pub(crate) fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// Gives how often [`alive`] has to be called, if at all: half the time after which we would be killed.
pub(crate) fn watchdog_period() -> Option<Duration> {
    let mut usec = 0;
    sd_notify::watchdog_enabled(false, &mut usec)
        .then(|| Duration::from_micros(usec / 2))
        .filter(|p| !p.is_zero())
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(false, state) {
        tracing::debug!(%error, "the service manager cannot be told");
    }
}
