//! Servers that say who calls: issuers whose keys sign tokens, servers that know tokens, directories. What is learned of them
//! outlives a reload.

pub mod answers;
pub mod ldap;
pub mod source;

use std::sync::Arc;

use crate::calls::Calls;
use source::Sources;

/// Everything that is learned from other servers.
#[derive(Default)]
pub struct Remote {
    /// Asks them.
    pub calls: Arc<Calls>,
    /// Their keys.
    pub sources: Sources,
}
