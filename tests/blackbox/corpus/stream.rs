//! Cases of the router on layer 4: every route leads to a listener of its own, so that whoever is connected to tells which
//! route was taken. Addresses of the cases are those of loopback, or there is no such connection here.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use gateway_tests::tls::{Pair, client};
use gateway_tests::{Gateway, Setup};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use super::End;

const WITHIN: Duration = Duration::from_secs(10);

/// Cases name their ports: one at a time.
static PORTS: Mutex<()> = Mutex::new(());

pub fn one(case: &Value) -> End {
    let asked = &case["request"];
    let Some((source, destination)) = end(asked, "src").zip(end(asked, "dst")) else {
        return End::Skipped("an address beyond loopback".to_owned());
    };
    let _turn = PORTS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let sni = asked["sni"].as_str().or_else(|| asked["vars"]["ssl_preread_server_name"].as_str());
    let (sender, taken) = channel();
    let mut config = case["config"].clone();
    let routes = config["routes"].as_array().cloned().unwrap_or_default();
    let secure = !routes.iter().all(|route| route["protocols"] == json!(["tcp"]));
    let services: Vec<Value> = routes.iter().enumerate().map(|(at, route)| service(at, route, &sender)).collect();
    for (at, route) in config["routes"].as_array_mut().into_iter().flatten().enumerate() {
        route["service"] = format!("of-{at}").into();
    }
    config["services"] = services.into();
    if secure {
        let pair = Pair::new(&["www.example.org"]);
        config["certificates"] =
            json!([{ "cert": pair.certificate_pem, "key": pair.key_pem, "snis": ["www.example.org"] }]);
    }
    let listen = format!("{destination}{}", if secure { " ssl" } else { "" });
    config["gateway"] = json!({ "stream_listen": [listen], "listen": ["127.0.0.1:0"], "admin": "127.0.0.1:0" });
    let gateway = match Setup::new(&config.to_string()).launch() {
        Ok(gateway) => gateway,
        Err(exit) => return End::Failed(format!("the configuration is refused: {}", exit.stderr.trim())),
    };
    judge(&case["expected"]["matched_route"], ask(&gateway, secure, source, sni, &taken))
}

fn judge(wanted: &Value, found: Result<Option<String>, String>) -> End {
    match found {
        Err(why) => End::Failed(why),
        Ok(found) if found.as_deref() == wanted.as_str() => End::Passed,
        Ok(found) => End::Failed(format!("route {found:?} not {wanted}")),
    }
}

/// An end of the connection: any address and port where the case names none, nothing where it cannot be had.
fn end(asked: &Value, which: &str) -> Option<SocketAddrV4> {
    let ip = asked[format!("{which}_ip")].as_str().unwrap_or("127.0.0.1").parse::<Ipv4Addr>().ok()?;
    let port = asked[format!("{which}_port")].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or(0);
    ip.is_loopback().then(|| SocketAddrV4::new(ip, port))
}

/// A service whose listener says the route's id when somebody connects.
fn service(at: usize, route: &Value, taken: &Sender<String>) -> Value {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = listener.local_addr().expect("the listener is bound");
    let (id, taken) = (route["id"].as_str().unwrap_or_default().to_owned(), taken.clone());
    thread::spawn(move || {
        // Ends with the case, when nobody listens to it any more.
        while listener.accept().is_ok_and(|_| taken.send(id.clone()).is_ok()) {}
    });
    let passes = route["protocols"] == json!(["tls_passthrough"]);
    let protocol = if passes { "tls_passthrough" } else { "tcp" };
    json!({ "name": format!("of-{at}"), "protocol": protocol, "host": "127.0.0.1", "port": address.port() })
}

/// Connects; which route was taken, if any.
fn ask(
    gateway: &Gateway,
    secure: bool,
    source: SocketAddrV4,
    sni: Option<&str>,
    taken: &Receiver<String>,
) -> Result<Option<String>, String> {
    let to = if secure { gateway.stream_tls() } else { gateway.stream() };
    let mut stream = connect(source, to).map_err(|error| format!("{source} to {to}: {error}"))?;
    if secure {
        let (stream, sni) = (stream.try_clone().map_err(|e| e.to_string())?, sni.unwrap_or("any.test").to_owned());
        // Behind a route that passes TLS through nobody answers the handshake.
        thread::spawn(move || drop(client(stream, &sni, &[])));
    } else {
        // The other side may have closed already.
        let _ = stream.write_all(b"x");
    }
    if let Ok(id) = taken.recv_timeout(if secure { WITHIN } else { Duration::ZERO }) {
        return Ok(Some(id));
    }
    let _ = stream.set_read_timeout(Some(WITHIN));
    // Whoever listens closes at once, and so does a gateway without a route.
    let _ = stream.read(&mut [0; 16]);
    let _ = stream.shutdown(Shutdown::Both);
    Ok(taken.try_recv().ok())
}

fn connect(source: SocketAddrV4, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from(source).into())?;
    socket.connect_timeout(&to.into(), WITHIN)?;
    Ok(socket.into())
}
