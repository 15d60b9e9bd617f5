//! What commands about the server know of it: how it was started, and what its shards publish.

/// One server process, as all of its shards see it.
#[derive(Debug, Default)]
pub struct Server {
    /// What clients have to know before they may do anything; `None`: nothing.
    pub password: Option<String>,
    /// 40 hexadecimal digits, by which a cluster's nodes know each other.
    pub node_id: String,
}
