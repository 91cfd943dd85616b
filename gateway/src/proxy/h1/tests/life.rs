//! A connection's life: reuse, staleness on real sockets, memory when idle, bodies in both directions at once.

use std::pin::Pin;

use bytes::Bytes;
use http::{HeaderMap, Method};
use http_body::Body;
use http_body_util::{BodyExt, Empty, Full};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::super::{Connection, Limits, Reply};
use super::script::{Frames, Nest, Step, assert_waits, connect, finish, head, whole};

#[test]
fn one_connection_serves_many_exchanges_and_holds_no_buffer_between() {
    let headers = HeaderMap::new();
    let response = b"HTTP/1.1 200 OK\r\nX-A: 1\r\nContent-Length: 5\r\n\r\nhello";
    let (mut connection, peer) = connect([]);
    for served in 0..100 {
        let written = peer.borrow().written.len();
        peer.borrow_mut().steps = [Step::Written(written + 1), Step::Data(response.to_vec())].into();
        assert!(!connection.is_stale());
        assert_eq!(connection.served(), served);
        let nest = Nest::new();
        let mut exchange = connection.exchange(&head(&Method::GET, &headers), Empty::<Bytes>::new(), nest.clone());
        assert_eq!(whole(finish(&mut exchange).unwrap()).unwrap().body, b"hello");
        connection = nest.take().expect("reusable");
        assert_eq!(connection.read.bytes().capacity(), 0, "an idle connection holds no buffer");
    }
}

#[test]
fn a_waiting_body_holds_no_buffer() {
    let headers = HeaderMap::new();
    let (connection, peer) = connect([Step::Written(1), Step::Data(b"HTTP/1.1 200 OK\r\n\r\n".to_vec())]);
    let reply = finish(connection.exchange(&head(&Method::GET, &headers), Empty::<Bytes>::new(), Nest::new())).unwrap();
    let Reply::Response(_, mut body) = reply else { panic!("no response") };
    for chunk in ["one", "two"] {
        assert_waits(&mut body.frame());
        assert_eq!(body.buffered_capacity(), 0);
        peer.borrow_mut().steps.push_back(Step::Data(chunk.into()));
        let frame = finish(body.frame()).unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), chunk);
    }
}

#[test]
fn data_handed_out_stays_whole_while_the_buffer_is_used_again() {
    let headers = HeaderMap::new();
    let mut kept: Vec<(Bytes, u8)> = Vec::new();
    for round in 0..50u8 {
        let mut response = b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n".to_vec();
        response.extend(std::iter::repeat_n(round, 5000));
        let (connection, _) = connect([Step::Written(1), Step::Data(response)]);
        let reply =
            finish(connection.exchange(&head(&Method::GET, &headers), Empty::<Bytes>::new(), Nest::new())).unwrap();
        let Reply::Response(_, body) = reply else { panic!("no response") };
        kept.push((finish(body.collect()).unwrap().to_bytes(), round));
        if round % 3 == 0 {
            kept.remove(0);
        }
    }
    assert!(kept.iter().all(|(data, round)| data.len() == 5000 && data.iter().all(|b| b == round)));
}

async fn pair() -> (Connection<TcpStream>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (Connection::new(client, Limits::default()), listener.accept().await.unwrap().0)
}

/// Waits until the reactor has seen something on the socket.
async fn readable(connection: &Connection<TcpStream>) {
    let wait = connection.transport().readable();
    tokio::time::timeout(std::time::Duration::from_secs(5), wait).await.expect("an event within 5 s").unwrap();
}

#[tokio::test]
async fn staleness_is_seen_on_a_socket() {
    let (mut connection, peer) = pair().await;
    assert!(!connection.is_stale());
    drop(peer);
    readable(&connection).await;
    assert!(connection.is_stale(), "closed");

    let (mut connection, mut peer) = pair().await;
    peer.write_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n").await.unwrap();
    readable(&connection).await;
    assert!(connection.is_stale(), "bytes that nobody asked for");
}

#[tokio::test]
async fn a_socket_serves_again_and_again() {
    let (mut connection, mut peer) = pair().await;
    let headers = HeaderMap::new();
    for _ in 0..20 {
        let nest = Nest::new();
        let exchange = connection.exchange(&head(&Method::GET, &headers), Empty::<Bytes>::new(), nest.clone());
        let serve = async {
            let mut request = [0; 1024];
            let n = peer.read(&mut request).await.unwrap();
            assert!(request[..n].ends_with(b"\r\n\r\n"));
            peer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await.unwrap();
        };
        let (reply, ()) = tokio::join!(exchange, serve);
        let Reply::Response(_, body) = reply.unwrap() else { panic!("no response") };
        assert_eq!(body.collect().await.unwrap().to_bytes(), "hi");
        connection = nest.take().expect("reusable");
        assert!(!connection.is_stale());
    }
}

/// Larger than all buffers between the ends, so that it needs both directions at once.
const ECHO_BYTES: usize = 4 << 20;

#[tokio::test]
async fn a_peer_that_echoes_while_it_reads_does_not_stall() {
    let (near, far) = tokio::io::duplex(1024);
    let pattern: Vec<u8> = (0..ECHO_BYTES).map(|i| (i % 251) as u8).collect();
    let headers = HeaderMap::new();
    let nest = Nest::new();
    let body = Full::new(Bytes::from(pattern.clone()));
    let exchange =
        Connection::new(near, Limits::default()).exchange(&head(&Method::POST, &headers), body, nest.clone());
    let echo = async {
        let (mut read, mut write) = tokio::io::split(far);
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(read.read_u8().await.unwrap());
        }
        let response = format!("HTTP/1.1 200 OK\r\nContent-Length: {ECHO_BYTES}\r\n\r\n");
        write.write_all(response.as_bytes()).await.unwrap();
        tokio::io::copy(&mut read.take(ECHO_BYTES as u64), &mut write).await.unwrap();
    };
    let receive = async {
        let Reply::Response(_, body) = exchange.await.unwrap() else { panic!("no response") };
        assert_eq!(body.size_hint().exact(), Some(ECHO_BYTES as u64));
        body.collect().await.unwrap().to_bytes()
    };
    let (received, ()) = tokio::join!(receive, echo);
    assert!(received == pattern);
    assert!(nest.take().is_some());
}

#[tokio::test]
async fn a_refusal_is_noticed_while_the_body_can_always_be_written() {
    let (near, far) = tokio::io::duplex(1 << 16);
    let headers = HeaderMap::new();
    // More frames than would ever be sent if the response were not looked for in between.
    let chunk = vec![0u8; 1000];
    let body = Frames::of(std::iter::repeat_n(&chunk[..], 20_000));
    let exchange = Connection::new(near, Limits::default()).exchange(&head(&Method::POST, &headers), body, Nest::new());
    let refuse = async {
        let (mut read, mut write) = tokio::io::split(far);
        write.write_all(b"HTTP/1.1 429 Slow\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        let mut bytes = vec![0; 1 << 16];
        let mut total = 0;
        while let Ok(n @ 1..) = read.read(&mut bytes).await {
            total += n;
        }
        total
    };
    let receive = async {
        let Reply::Response(parts, body) = exchange.await.unwrap() else { panic!("no response") };
        assert!(Pin::new(&body).is_end_stream());
        parts.status.as_u16()
    };
    let (status, total) = tokio::join!(receive, refuse);
    assert_eq!(status, 429);
    assert!(total < 2_000_000, "{total} bytes were sent before the response was noticed");
}
