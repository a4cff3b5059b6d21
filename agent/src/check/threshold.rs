//! How many results in a row it takes to change a status. Pure; Consul's semantics.

use purlin_model::check::{CheckDefinition, Status};

/// The first result counts at once, whatever it is: nothing is known before it.
#[derive(Debug)]
pub(super) struct Thresholds {
    before_passing: u32,
    before_warning: u32,
    before_critical: u32,
    successes: u32,
    failures: u32,
}

impl Thresholds {
    pub(super) fn new(definition: &CheckDefinition) -> Self {
        let before_critical = definition.failures_before_critical.max(1);
        let before_warning = match definition.failures_before_warning {
            0 => before_critical,
            given => given,
        };
        let before_passing = definition.success_before_passing.max(1);
        Self {
            before_passing,
            before_warning,
            before_critical,
            successes: before_passing,
            failures: before_critical,
        }
    }

    /// The status after one more result; none while too few agree, so that the last one stays.
    pub(super) fn judge(&mut self, found: Status) -> Option<Status> {
        match found {
            Status::Passing | Status::Warning => {
                self.failures = 0;
                self.successes = self.successes.saturating_add(1);
                (self.successes >= self.before_passing).then_some(found)
            }
            Status::Critical => {
                self.successes = 0;
                self.failures = self.failures.saturating_add(1);
                if self.failures >= self.before_critical {
                    Some(Status::Critical)
                } else {
                    (self.failures >= self.before_warning).then_some(Status::Warning)
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Status::{Critical, Passing, Warning};

    fn thresholds(passing: u32, warning: u32, critical: u32) -> Thresholds {
        let definition =
            crate::check::tests::definition("c", purlin_model::check::Probe::Ttl { ttl: Default::default() });
        Thresholds::new(&CheckDefinition {
            success_before_passing: passing,
            failures_before_warning: warning,
            failures_before_critical: critical,
            ..definition
        })
    }

    fn judge(mut thresholds: Thresholds, results: &[Status]) -> Vec<Option<Status>> {
        results.iter().map(|result| thresholds.judge(*result)).collect()
    }

    #[test]
    fn without_thresholds_each_result_counts() {
        let results = [Passing, Critical, Warning, Passing];
        assert_eq!(judge(thresholds(0, 0, 0), &results), results.map(Some));
    }

    #[test]
    fn a_status_changes_after_as_many_results_in_a_row() {
        let results = [Passing, Critical, Critical, Critical, Passing, Critical, Passing, Passing, Passing];
        let expected = [Some(Passing), None, None, Some(Critical), None, None, None, None, Some(Passing)];
        assert_eq!(judge(thresholds(3, 0, 3), &results), expected);
    }

    #[test]
    fn a_warning_comes_before_critical_where_asked() {
        let results = [Passing, Critical, Critical, Critical, Critical, Passing];
        let expected = [Some(Passing), None, Some(Warning), Some(Warning), Some(Critical), Some(Passing)];
        assert_eq!(judge(thresholds(1, 2, 4), &results), expected);
    }

    #[test]
    fn the_first_result_counts_whatever_it_is() {
        assert_eq!(judge(thresholds(5, 0, 5), &[Critical, Critical]), [Some(Critical), Some(Critical)]);
        assert_eq!(judge(thresholds(5, 0, 5), &[Passing, Critical]), [Some(Passing), None]);
    }
}
