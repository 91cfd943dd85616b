//! One question to a directory: may this name bind with this password? The three messages of LDAP v3 that it takes (RFC 4511
//! §4.2, §4.14, §4.3), bounded in time and bytes, one connection a question. Must not know who asks.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use crate::ber::{self, Elements};
use crate::calls::{Calls, Error};
use crate::proxy::transport::Transport;

/// The longest answer that is read, bytes.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// `[APPLICATION n]`.
const BIND_REQUEST: u8 = 0x60;
const BIND_RESPONSE: u8 = 0x61;
const UNBIND_REQUEST: u8 = 0x42;
const EXTENDED_REQUEST: u8 = 0x77;
const EXTENDED_RESPONSE: u8 = 0x78;
/// `[0]`: a simple password in a bind, the name in an extended request.
const FIRST: u8 = 0x80;
/// The name of StartTLS.
const START_TLS: &[u8] = b"1.3.6.1.4.1.1466.20037";

/// The message id of StartTLS and of a bind; 0 is the directory's own.
const START_TLS_ID: u8 = 1;
const BIND_ID: u8 = 2;

/// How the connection is kept from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secrecy {
    /// It is not.
    Plain,
    /// TLS from the first byte.
    Tls,
    /// TLS after it was asked for.
    StartTls,
}

/// A directory.
#[derive(Clone, Debug)]
pub struct Directory {
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// TLS.
    pub secrecy: Secrecy,
    /// Whether the directory's certificate is verified.
    pub verify: bool,
}

/// What a directory says of a name and a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// They belong together.
    Good,
    /// They do not.
    Bad,
}

impl Directory {
    /// Asks whether `name` may bind with `password`. An empty password is never sent: it would ask for nothing and be
    /// granted (RFC 4513 §5.1.2).
    ///
    /// # Errors
    /// Why it is not known, in words that hold nothing of the question but the host.
    pub async fn bind(&self, calls: &Calls, name: &str, password: &[u8], end: Instant) -> Result<Verdict, String> {
        if name.is_empty() || password.is_empty() {
            return Ok(Verdict::Bad);
        }
        match tokio::time::timeout_at(end, self.ask(calls, name, password, end)).await {
            Ok(verdict) => verdict.map_err(|error| format!("{}: {error}", self.host)),
            Err(_) => Err(format!("{}: no answer in time", self.host)),
        }
    }

    async fn ask(&self, calls: &Calls, name: &str, password: &[u8], end: Instant) -> Result<Verdict, Error> {
        let tls = (self.secrecy == Secrecy::Tls).then_some(self.verify);
        let mut stream = calls.open(&self.host, self.port, tls, end).await?;
        if self.secrecy == Secrecy::StartTls {
            stream = self.start_tls(calls, stream).await?;
        }
        stream.write_all(&bind(name, password)).await?;
        stream.flush().await?;
        let answer = read(&mut stream).await?;
        let verdict = verdict_of(&answer);
        // The directory closes; nothing depends on whether it hears it.
        let _ = stream.write_all(&message(BIND_ID + 1, &ber::element(UNBIND_REQUEST, &[]))).await;
        let _ = stream.shutdown().await;
        verdict
    }

    async fn start_tls(&self, calls: &Calls, mut plain: Transport) -> Result<Transport, Error> {
        let name = ber::element(FIRST, &[START_TLS]);
        plain.write_all(&message(START_TLS_ID, &ber::element(EXTENDED_REQUEST, &[&name]))).await?;
        let answer = read(&mut plain).await?;
        match result_of(&answer, START_TLS_ID, EXTENDED_RESPONSE)? {
            0 => Ok(calls.secure(plain, &self.host, self.verify).await?),
            code => Err(format!("StartTLS is refused with result code {code}").into()),
        }
    }
}

fn message(id: u8, operation: &[u8]) -> Vec<u8> {
    ber::element(ber::SEQUENCE, &[&ber::element(ber::INTEGER, &[&[id]]), operation])
}

/// A simple bind (RFC 4511 §4.2).
fn bind(name: &str, password: &[u8]) -> Vec<u8> {
    let version = ber::element(ber::INTEGER, &[&[3]]);
    let name = ber::element(ber::OCTETS, &[name.as_bytes()]);
    let password = ber::element(FIRST, &[password]);
    message(BIND_ID, &ber::element(BIND_REQUEST, &[&version, &name, &password]))
}

/// What the answer to a bind means.
///
/// # Errors
/// It is no such answer, or one that says nothing of the name and the password.
pub fn verdict_of(answer: &[u8]) -> Result<Verdict, Error> {
    judge(result_of(answer, BIND_ID, BIND_RESPONSE)?)
}

/// One whole message and nothing behind it: who speaks out of turn before TLS would be believed within it.
async fn read(stream: &mut Transport) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::with_capacity(256);
    loop {
        match ber::size(&bytes)? {
            Some(size) if size > ANSWER_BYTES_MAX => return Err("a long answer".into()),
            Some(size) if size == bytes.len() => return Ok(bytes),
            Some(size) if size < bytes.len() => return Err("more than one answer".into()),
            _ => {}
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err("it hung up".into());
        }
        if bytes.len() > ANSWER_BYTES_MAX {
            return Err("a long answer".into());
        }
    }
}

/// The result code of an answer (RFC 4511 §4.1.9).
fn result_of(answer: &[u8], id: u8, operation: u8) -> Result<u32, Error> {
    let read = || {
        let mut message = Elements::of(answer).enter(ber::SEQUENCE)?;
        let own = message.read(ber::INTEGER)?;
        let body = message.next()?;
        let code = Elements::of(body.content).read(ber::ENUMERATED).filter(|digits| digits.len() <= 4)?;
        Some((own, body.tag, code.iter().fold(0, |sum, digit| sum << 8 | u32::from(*digit))))
    };
    match read() {
        Some((own, tag, code)) if own == [id] && tag == operation => Ok(code),
        // A notice of disconnection (RFC 4511 §4.4.1).
        Some((_, EXTENDED_RESPONSE, code)) => Err(format!("it disconnects with result code {code}").into()),
        Some(_) => Err("an answer to something else".into()),
        None => Err("an answer that is no LDAP".into()),
    }
}

/// What a result code of a bind means (RFC 4511 appendix A).
fn judge(code: u32) -> Result<Verdict, Error> {
    match code {
        0 => Ok(Verdict::Good),
        // constraintViolation, noSuchObject, invalidDNSyntax, inappropriateAuthentication, invalidCredentials,
        // insufficientAccessRights, unwillingToPerform.
        19 | 32 | 34 | 48 | 49 | 50 | 53 => Ok(Verdict::Bad),
        8 | 13 => Err(format!("result code {code}: it wants TLS").into()),
        code => Err(format!("result code {code}").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_those_of_the_standard() {
        let expected = b"\x30\x18\x02\x01\x02\x60\x13\x02\x01\x03\x04\x07uid=ann\x80\x05hello";
        assert_eq!(bind("uid=ann", b"hello"), expected);
        let unbind = message(3, &ber::element(UNBIND_REQUEST, &[]));
        assert_eq!(unbind, b"\x30\x05\x02\x01\x03\x42\x00");
    }

    #[test]
    fn only_the_answer_to_the_question_counts() {
        let good = b"\x30\x0c\x02\x01\x02\x61\x07\x0a\x01\x00\x04\x00\x04\x00";
        let result = |bytes: &[u8]| result_of(bytes, BIND_ID, BIND_RESPONSE).map_err(|error| error.to_string());
        assert_eq!(result(good), Ok(0));
        for end in 0..good.len() {
            assert!(result(&good[..end]).is_err());
        }
        let mut other = good.to_vec();
        other[4] = 1;
        assert_eq!(result(&other), Err("an answer to something else".to_owned()));
        let mut wrong = good.to_vec();
        wrong[9] = 49;
        assert_eq!(result(&wrong).map(|code| judge(code).ok()), Ok(Some(Verdict::Bad)));
        let notice = b"\x30\x0c\x02\x01\x00\x78\x07\x0a\x01\x34\x04\x00\x04\x00";
        assert_eq!(result(notice), Err("it disconnects with result code 52".to_owned()));
        assert!(judge(51).is_err() && judge(256).is_err());
    }
}
