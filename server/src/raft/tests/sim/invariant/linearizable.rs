//! Every key is a linearizable register, whichever servers clients asked, by lease or by read index.

use purlin_history::History;

pub(super) fn check(history: &History) -> Result<(), String> {
    history.check().map_err(|broken| broken.to_string())
}
