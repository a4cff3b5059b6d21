//! What DNS counts.

use hickory_proto::op::ResponseCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabel {
    code: &'static str,
}

/// Cheap to clone; all clones count together.
#[derive(Debug, Clone)]
pub struct DnsMetrics {
    answers: Family<CodeLabel, Counter>,
    /// Counters of the codes by their number, so that counting takes no lock.
    by_code: [Counter; CODES.len()],
    other: Counter,
    /// Packets that were no questions.
    pub(super) dropped: Counter,
    /// Questions left unanswered because too many were under way.
    pub(super) overload: Counter,
    pub(super) forwarded: Counter,
    pub(super) forward_failures: Counter,
}

const CODES: [&str; 6] = ["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"];

impl Default for DnsMetrics {
    fn default() -> Self {
        let answers = Family::<CodeLabel, Counter>::default();
        let by_code = CODES.map(|code| answers.get_or_create(&CodeLabel { code }).clone());
        let other = answers.get_or_create(&CodeLabel { code: "other" }).clone();
        Self {
            answers,
            by_code,
            other,
            dropped: Counter::default(),
            overload: Counter::default(),
            forwarded: Counter::default(),
            forward_failures: Counter::default(),
        }
    }
}

impl DnsMetrics {
    pub fn register(&self, to: &mut Registry) {
        to.register("dns_answers", "DNS questions answered, by response code", self.answers.clone());
        to.register("dns_dropped", "DNS packets that were no questions", self.dropped.clone());
        let help = "DNS questions not answered because too many were under way";
        to.register("dns_overload", help, self.overload.clone());
        to.register("dns_forwarded", "DNS questions handed on to recursors", self.forwarded.clone());
        let help = "DNS questions that no recursor answered";
        to.register("dns_forward_failures", help, self.forward_failures.clone());
    }

    pub(super) fn answered(&self, code: ResponseCode) {
        let number = usize::from(u16::from(code));
        self.by_code.get(number).unwrap_or(&self.other).inc();
    }
}
