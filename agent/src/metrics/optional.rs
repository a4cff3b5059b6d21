//! A gauge that is left out of the exposition while it has no meaning.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// In seconds. Cheap to clone; all clones are the same gauge.
#[derive(Debug, Clone)]
pub(crate) struct OptionalSeconds {
    name: &'static str,
    help: &'static str,
    value: Arc<Mutex<Option<f64>>>,
}

impl OptionalSeconds {
    pub(crate) fn new(name: &'static str, help: &'static str) -> Self {
        Self { name, help, value: Arc::default() }
    }

    pub(crate) fn set(&self, value: Option<f64>) {
        *self.value.lock().unwrap_or_else(PoisonError::into_inner) = value;
    }
}

impl Collector for OptionalSeconds {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let value = *self.value.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(value) = value else { return Ok(()) };
        let gauge = ConstGauge::new(value);
        let encoder =
            encoder.encode_descriptor(self.name, self.help, Some(&Unit::Seconds), gauge.metric_type())?;
        gauge.encode(encoder)
    }
}
