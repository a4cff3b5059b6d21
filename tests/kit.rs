//! What stories are told with: hosts, processes on them, faults between them, and waiting for a state.

pub mod apps;
pub mod capture;
pub mod clock;
pub mod cluster;
pub mod host;
pub mod mesh;
pub mod net;
pub mod privacy;
pub mod process;
pub mod wait;

pub use host::{Host, Lab};
pub use mesh::{Agent, Mesh};
pub use process::Process;
pub use wait::until;
