//! A peer made of a script: reads deliver given segments with a `Pending` between them, writes are recorded. Nothing
//! waits for time: `finish` polls a future and fails the test when nothing woke it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use http::{HeaderMap, Method};
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::super::{Connection, Failure, Limits, Reply, RequestHead, ResponseBody};

/// What a read meets.
#[derive(Clone, Debug)]
pub enum Step {
    Data(Vec<u8>),
    /// Nothing until that many bytes of requests were written.
    Written(usize),
    Eof,
    Reset,
}

#[derive(Debug, Default)]
pub struct Peer {
    pub steps: VecDeque<Step>,
    /// Bytes written by the client.
    pub written: Vec<u8>,
    /// Sizes of the single writes.
    pub writes: Vec<usize>,
    /// Most bytes a write takes; `None`: all.
    pub write_max: Option<usize>,
    /// Writes fail from this many bytes on.
    pub write_fails_at: Option<usize>,
    /// Writes take no more than this many bytes in all and then wait.
    pub window: Option<usize>,
    pub unflushed: bool,
    pub closed: bool,
    paused: bool,
}

/// The client's end.
#[derive(Debug)]
pub struct Pipe(pub Rc<RefCell<Peer>>);

impl Drop for Pipe {
    fn drop(&mut self) {
        self.0.borrow_mut().closed = true;
    }
}

impl AsyncRead for Pipe {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut peer = self.0.borrow_mut();
        let written = peer.written.len();
        if let Some(Step::Written(least)) = peer.steps.front() {
            if written < *least {
                return Poll::Pending;
            }
            peer.steps.pop_front();
        }
        if !std::mem::replace(&mut peer.paused, true) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        match peer.steps.front_mut() {
            None | Some(Step::Written(_)) => return Poll::Pending,
            Some(Step::Eof) => return Poll::Ready(Ok(())),
            Some(Step::Reset) => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            Some(Step::Data(data)) => {
                let n = data.len().min(buf.remaining());
                buf.put_slice(&data[..n]);
                data.drain(..n);
                if !data.is_empty() {
                    return Poll::Ready(Ok(()));
                }
            }
        }
        peer.steps.pop_front();
        peer.paused = false;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(self: Pin<&mut Self>, _: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut peer = self.0.borrow_mut();
        if peer.write_fails_at.is_some_and(|at| peer.written.len() >= at) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = peer.window.map_or(usize::MAX, |window| window - peer.written.len());
        let all: Vec<u8> = bufs.iter().flat_map(|slice| slice.to_vec()).collect();
        let n = all.len().min(peer.write_max.unwrap_or(usize::MAX)).min(room);
        if n == 0 {
            return Poll::Pending;
        }
        peer.written.extend_from_slice(&all[..n]);
        peer.writes.push(n);
        peer.unflushed = true;
        Poll::Ready(Ok(n))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().unflushed = false;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A connection to a peer that follows `steps`.
pub fn connect(steps: impl IntoIterator<Item = Step>) -> (Connection<Pipe>, Rc<RefCell<Peer>>) {
    let peer = Peer { steps: steps.into_iter().collect(), ..Peer::default() };
    let peer = Rc::new(RefCell::new(peer));
    (Connection::new(Pipe(peer.clone()), Limits::default()), peer)
}

/// Polls to the end, only when woken, as a runtime does; `None` if the future waits for something that cannot come.
pub fn try_finish<F: Future>(future: F) -> Option<F::Output> {
    struct Woken(AtomicBool);
    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let woken = Arc::new(Woken(AtomicBool::new(true)));
    let waker = Waker::from(woken.clone());
    let mut future = pin!(future);
    while woken.0.swap(false, Ordering::Relaxed) {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Some(output);
        }
    }
    None
}

/// Polls to the end.
pub fn finish<F: Future>(future: F) -> F::Output {
    try_finish(future).expect("the future can make no progress")
}

/// Polls a few times and expects that it still waits.
pub fn assert_waits<F: Future + Unpin>(future: &mut F) {
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..10 {
        assert!(Pin::new(&mut *future).poll(&mut cx).is_pending(), "the future should wait");
    }
}

/// Where connections come home to.
#[derive(Debug)]
pub struct Nest<S>(pub Rc<RefCell<Option<Connection<S>>>>);

impl<S> Clone for Nest<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S> Nest<S> {
    pub fn new() -> Self {
        Self(Rc::new(RefCell::new(None)))
    }

    pub fn take(&self) -> Option<Connection<S>> {
        self.0.borrow_mut().take()
    }
}

impl<S> super::super::Home<S> for Nest<S> {
    fn take_back(self, connection: Connection<S>) {
        assert!(self.0.borrow_mut().replace(connection).is_none(), "one connection comes home once");
    }
}

/// A body made of frames; `None` is a `Pending`.
#[derive(Debug, Default)]
pub struct Frames {
    pub frames: VecDeque<Option<Result<Frame<Bytes>, &'static str>>>,
    pub exact: Option<u64>,
    /// Waits for ever when the frames are used up.
    pub endless: bool,
}

impl Frames {
    pub fn of<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let frames = chunks.into_iter().map(|c| Some(Ok(Frame::data(Bytes::copy_from_slice(c))))).collect();
        Self { frames, ..Self::default() }
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.frames.pop_front() {
            Some(Some(frame)) => Poll::Ready(Some(frame.map_err(io::Error::other))),
            Some(None) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            None if self.endless => Poll::Pending,
            None => Poll::Ready(None),
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.exact.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// A plain head.
pub fn head<'a>(method: &'a Method, headers: &'a HeaderMap) -> RequestHead<'a> {
    RequestHead { method, target: "/x?y", host: b"up.test", headers, extra: &[], upgrade: None }
}

/// A whole response.
#[derive(Debug, PartialEq)]
pub struct Whole {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: HeaderMap,
}

/// Reads a body to its end and checks on the way that its hints keep their word.
pub fn drain<B, H>(body: ResponseBody<Pipe, B, H>) -> Result<(Vec<u8>, HeaderMap), Failure>
where
    ResponseBody<Pipe, B, H>: Body<Data = Bytes, Error = Failure> + Unpin,
{
    let mut body = body;
    let (mut data, mut trailers) = (Vec::new(), HeaderMap::new());
    let exact = body.size_hint().exact();
    loop {
        let ended = body.is_end_stream();
        let lower = body.size_hint().lower();
        let frame = finish(std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)));
        let Some(frame) = frame else { break };
        assert!(!ended, "a frame came after the end of the stream");
        match frame?.into_data() {
            Ok(bytes) => {
                assert!(!bytes.is_empty(), "an empty frame");
                assert!(body.size_hint().lower() + bytes.len() as u64 >= lower);
                data.extend_from_slice(&bytes);
            }
            Err(frame) => trailers = frame.into_trailers().expect("data or trailers"),
        }
    }
    assert!(body.is_end_stream());
    assert!(exact.is_none_or(|n| n == data.len() as u64), "the size hint was wrong");
    Ok((data, trailers))
}

/// The response of a reply, read to its end.
pub fn whole<B, H>(reply: Reply<Pipe, B, H>) -> Result<Whole, Failure>
where
    ResponseBody<Pipe, B, H>: Body<Data = Bytes, Error = Failure> + Unpin,
{
    let Reply::Response(parts, body) = reply else { panic!("an upgrade came") };
    let (body, trailers) = drain(body)?;
    Ok(Whole { status: parts.status.as_u16(), headers: parts.headers, body, trailers })
}
