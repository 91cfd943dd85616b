//! One question to the kernel over netlink, and how its answer is taken apart. It must not know what is asked.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

/// linux/netlink.h.
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const ATTRIBUTE_TYPE_MASK: u16 = 0x3fff;
const HEADER_BYTES: usize = 16;
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Sends one request; the answer's body, without netlink's own header.
///
/// # Errors
/// The kernel's refusal, by its errno.
pub(super) fn ask(protocol: SockProtocol, kind: u16, body: &[u8]) -> io::Result<Vec<u8>> {
    let socket: OwnedFd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
    let mut request = Vec::with_capacity(HEADER_BYTES + body.len());
    request.extend(((HEADER_BYTES + body.len()) as u32).to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend(NLM_F_REQUEST.to_ne_bytes());
    // Sequence and port: one question a socket.
    request.extend([0; 8]);
    request.extend(body);
    send(socket.as_raw_fd(), &request, MsgFlags::empty())?;
    let mut answer = vec![0; ANSWER_BYTES_MAX];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    answer.truncate(length);
    if answer.len() < HEADER_BYTES {
        return Err(short());
    }
    let body = answer.split_off(HEADER_BYTES);
    if u16::from_ne_bytes([answer[4], answer[5]]) == NLMSG_ERROR {
        let errno = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
        return Err(io::Error::from_raw_os_error(-errno));
    }
    Ok(body)
}

/// The kernel's answer is cut short.
pub(super) fn short() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the kernel's answer is cut short")
}

/// One attribute, padded.
pub(super) fn attribute(kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(4 + payload.len().next_multiple_of(4));
    out.extend(((4 + payload.len()) as u16).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(payload);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

/// The payload of the first attribute of this type.
pub(super) fn find(attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    each(attributes).find(|(kind, _)| *kind == wanted).map(|(_, payload)| payload)
}

/// Every attribute, up to the first one that lies about its length.
pub(super) fn each(mut attributes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header = attributes.first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & ATTRIBUTE_TYPE_MASK;
        let payload = attributes.get(4..length)?;
        attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, payload))
    })
}

pub(super) fn word(payload: &[u8]) -> Option<u32> {
    payload.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

/// A C string.
pub(super) fn text(payload: &[u8]) -> String {
    String::from_utf8_lossy(payload.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_that_lie_about_their_length_end_the_search() {
        assert_eq!(find(&[200, 0, 43, 0, 1], 43), None);
        assert_eq!(find(&[0, 0, 1, 0], 43), None);
        assert_eq!(find(&[5, 0, 1, 0, 9, 0, 0, 0, 5, 0, 43, 0, 7], 43), Some(&[7][..]));
    }

    #[test]
    fn what_is_built_is_found() {
        let mut attributes = attribute(3, b"eth0\0");
        attributes.extend(attribute(4, &1_500u32.to_ne_bytes()));
        assert_eq!(find(&attributes, 3).map(text).as_deref(), Some("eth0"));
        assert_eq!(find(&attributes, 4).and_then(word), Some(1_500));
    }
}
