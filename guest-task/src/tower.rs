//! HTTP requests as tasks: a layer for services of tower, and so for axum, hyper and tonic.
//!
//! A request is shown by its method and path, from its arrival until its response's body has been sent. Its CPU time is what was spent in
//! polling it, its memory the bytes of the body that were sent so far. The query is not shown: every user of the host can read it.
//!
//! Signals to a request: HUP, INT, QUIT, TERM and KILL cancel it: whoever waits for it gets status 503, or, once the body has begun, a
//! connection that breaks off. STOP and TSTP have it wait until CONT.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::Buf;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    Accepts, Action, ConnectError, Event, Options, Registry, Task, TaskId, TaskSpec, TaskState,
    thread_cpu_time_ns,
};

/// The error of a body: the service's own, or that the request was cancelled.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

const RUN: u8 = 0;
const STOP: u8 = 1;
const CANCEL: u8 = 2;

/// What cancels.
const ENDING: [i32; 5] = [1, 2, 3, 9, 15];
const STOPPING: [i32; 2] = [19, 20];
const CONT: i32 = 18;

/// The request was cancelled by a signal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cancelled;

impl fmt::Display for Cancelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the request was cancelled by a signal")
    }
}

impl std::error::Error for Cancelled {}

/// What is wanted of a request, and whom to wake for it.
#[derive(Debug, Default)]
struct Control {
    wanted: AtomicU8,
    waker: Mutex<Option<Waker>>,
}

/// Requests in progress, by task.
#[derive(Debug, Default)]
struct Requests(Mutex<HashMap<TaskId, Arc<Control>>>);

impl Requests {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<TaskId, Arc<Control>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn on_event(&self, event: Event) {
        let Action::Signal(signal) = event.action else { return };
        let Some(control) = self.lock().get(&event.task).cloned() else { return };
        let wanted = match signal {
            CONT => RUN,
            _ if STOPPING.contains(&signal) => STOP,
            _ => CANCEL,
        };
        // What is cancelled stays so.
        let change = |now| (now != CANCEL).then_some(wanted);
        let _ = control.wanted.fetch_update(Ordering::AcqRel, Ordering::Acquire, change);
        let waker = control.waker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Shows the requests of the services that it is put around.
#[derive(Clone, Debug)]
pub struct TaskLayer {
    registry: Registry,
    requests: Arc<Requests>,
}

impl TaskLayer {
    /// Makes a layer with a registry of its own, which takes that registry's events.
    ///
    /// # Errors
    /// As [`Registry::connect`].
    pub fn connect(options: Options) -> Result<Self, ConnectError> {
        let requests = Arc::new(Requests::default());
        let known = requests.clone();
        let registry = Registry::connect(options.on_event(move |event| known.on_event(event)))?;
        Ok(Self { registry, requests })
    }

    /// Gives the registry, to publish other tasks in. Signals to those are not heard of: let them accept none.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }
}

impl<S> Layer<S> for TaskLayer {
    type Service = TaskService<S>;

    fn layer(&self, inner: S) -> TaskService<S> {
        TaskService { inner, layer: self.clone() }
    }
}

/// A service whose requests are shown.
#[derive(Clone, Debug)]
pub struct TaskService<S> {
    inner: S,
    layer: TaskLayer,
}

/// A request as a task, from its arrival to its end.
#[derive(Debug)]
struct Shown {
    task: Task,
    control: Arc<Control>,
    requests: Arc<Requests>,
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.requests.lock().remove(&self.task.id());
    }
}

impl Shown {
    fn new<B>(layer: &TaskLayer, request: &Request<B>) -> Self {
        let name = format!("{} {}", request.method(), request.uri().path());
        let signals = ENDING.iter().chain(&STOPPING).chain([&CONT]);
        let accepts = signals.fold(Accepts::NONE, |all, signal| all.signal(*signal));
        let spec = TaskSpec::new(&name).cmdline(&name).state(TaskState::Queued).accepts(accepts);
        let task = layer.registry.publish(spec);
        let control = Arc::<Control>::default();
        if task.is_shown() {
            layer.requests.lock().insert(task.id(), control.clone());
        }
        Self { task, control, requests: layer.requests.clone() }
    }

    /// Polls something of the request, unless it is to stand still; `Err` if it is cancelled.
    fn poll<T>(
        &self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<Result<T, Cancelled>> {
        *self.control.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        // Looked at after the waker is in place: what comes between wakes.
        match self.control.wanted.load(Ordering::Acquire) {
            CANCEL => return Poll::Ready(Err(Cancelled)),
            STOP => {
                self.task.set_state(TaskState::Stopped);
                return Poll::Pending;
            }
            _ => {}
        }
        self.task.set_state(TaskState::Running);
        let start = thread_cpu_time_ns();
        let polled = poll(cx);
        self.task.add_cpu_time_ns(thread_cpu_time_ns().saturating_sub(start));
        self.task.set_state(TaskState::Waiting);
        polled.map(Ok)
    }
}

impl<S, B, R> Service<Request<B>> for TaskService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body,
    R::Error: Into<BodyError>,
{
    type Response = Response<TaskBody<R>>;
    type Error = S::Error;
    type Future = TaskFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let shown = Some(Shown::new(&self.layer, &request));
        TaskFuture { inner: self.inner.call(request), shown }
    }
}

pin_project! {
    /// The response to come of a request that is shown.
    #[derive(Debug)]
    pub struct TaskFuture<F> {
        #[pin]
        inner: F,
        shown: Option<Shown>,
    }
}

impl<F, R, E> Future for TaskFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<TaskBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Some(shown) = this.shown.as_ref() else { return Poll::Pending };
        let polled = ready!(shown.poll(cx, |cx| this.inner.poll(cx)));
        let shown = this.shown.take();
        Poll::Ready(match polled {
            Ok(response) => {
                response.map(|response| response.map(|inner| TaskBody { inner: Some(inner), shown }))
            }
            Err(Cancelled) => {
                let mut response = Response::new(TaskBody { inner: None, shown: None });
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                Ok(response)
            }
        })
    }
}

pin_project! {
    /// The body of a response whose request is shown until it ends.
    #[derive(Debug)]
    pub struct TaskBody<B> {
        #[pin]
        inner: Option<B>,
        shown: Option<Shown>,
    }
}

impl<B> Body for TaskBody<B>
where
    B: Body,
    B::Error: Into<BodyError>,
{
    type Data = B::Data;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BodyError>>> {
        let this = self.project();
        let (Some(inner), Some(shown)) = (this.inner.as_pin_mut(), this.shown.as_ref()) else {
            return Poll::Ready(None);
        };
        match ready!(shown.poll(cx, |cx| inner.poll_frame(cx))) {
            Ok(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Buf::remaining);
                shown.task.add_memory_bytes(bytes as u64);
                Poll::Ready(Some(Ok(frame)))
            }
            Ok(Some(Err(e))) => Poll::Ready(Some(Err(e.into()))),
            Ok(None) => {
                *this.shown = None;
                Poll::Ready(None)
            }
            Err(cancelled) => Poll::Ready(Some(Err(cancelled.into()))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
