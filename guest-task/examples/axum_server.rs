//! An axum server whose requests are tasks. It prints the port that it listens at.
//!
//! `/wait` answers after a minute, `/stream` sends a kilobyte every 10 ms, `/compute` computes for 100 ms, `/` answers at once.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::get;
use guest_task::Options;
use guest_task::tower::TaskLayer;
use http_body::Frame;
use tokio::time::{Interval, interval, sleep};

/// A body without an end.
struct Endless(Interval);

impl http_body::Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_tick(cx).map(|_| Some(Ok(Frame::data(Bytes::from_static(&[b'x'; 1024])))))
    }
}

fn compute() -> &'static str {
    let end = Instant::now() + Duration::from_millis(100);
    while Instant::now() < end {
        std::hint::spin_loop();
    }
    "computed\n"
}

async fn serve() -> Result<(), Box<dyn std::error::Error>> {
    let layer = TaskLayer::connect(Options::default())?;
    let wait = async || {
        sleep(Duration::from_secs(60)).await;
        "waited\n"
    };
    let app = Router::new()
        .route("/", get(async || "hello\n"))
        .route("/wait/{id}", get(wait))
        .route("/compute", get(async || compute()))
        .route("/stream", get(async || Body::new(Endless(interval(Duration::from_millis(10))))))
        .layer(layer.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("{:?}", layer.registry().wait_answer(Duration::from_secs(5)));
    println!("{}", listener.local_addr()?.port());
    axum::serve(listener, app).await?;
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(serve())
}
