//! The queue actor and what it owns.

mod messages;
pub mod schedule;
pub mod store;

pub use messages::{Accept, AcceptError, Attempt, Fetch, FetchError, Job, Outcome, Record};
/// placeholder
#[derive(Clone)]
pub struct IdSource;
impl IdSource {
    /// next
    pub fn next(&self) -> queue_schema::QueueId {
        queue_schema::QueueId(0)
    }
}
/// placeholder
pub struct SpoolWriter;
impl SpoolWriter {
    /// create
    pub fn create(_: &std::path::Path, _: queue_schema::QueueId) -> std::io::Result<Self> {
        Ok(SpoolWriter)
    }
    /// write
    pub fn write(&mut self, _: &[u8]) -> std::io::Result<()> {
        Ok(())
    }
    /// finish
    pub fn finish(self) -> std::io::Result<crate::message::SpoolFile> {
        Err(std::io::ErrorKind::Other.into())
    }
}
