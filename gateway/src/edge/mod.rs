//! The kernel side seen from user space. The rest of the gateway knows four things of this room: `Policy` (what the
//! configuration wants), `Edge` (the control plane's handle), `Reporter` (a worker's way to tell what it saw) and
//! `Standings` (what a worker asks before it serves). It must not know plugins, routes or HTTP.
