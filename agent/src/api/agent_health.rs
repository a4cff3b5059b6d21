//! `/v1/agent/health/service`: the health of local services as a status code, for load balancers and scripts.

use http::StatusCode;
use http::header::ACCEPT;
use purlin_model::check::{Check, Status};
use serde_json::{Value, json};

use super::Api;
use super::answer::{Answer, Failure};
use super::request::Request;
use super::shape;
use super::shape::service::Shown;
use crate::registry::LocalState;

/// What an instance's checks come to: Consul's words and codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Health {
    Passing,
    Warning,
    Critical,
    Maintenance,
}

impl Health {
    fn as_str(self) -> &'static str {
        match self {
            Self::Passing => "passing",
            Self::Warning => "warning",
            Self::Critical => "critical",
            Self::Maintenance => "maintenance",
        }
    }

    fn code(self) -> StatusCode {
        match self {
            Self::Passing => StatusCode::OK,
            Self::Warning => StatusCode::TOO_MANY_REQUESTS,
            Self::Critical | Self::Maintenance => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn of<'a>(checks: impl Iterator<Item = &'a Check>) -> Self {
        let one = |check: &Check| match check.status {
            // Both kinds of maintenance are checks with reserved ids.
            _ if check.id.as_str().starts_with("_node_maintenance") => Self::Maintenance,
            _ if check.id.as_str().starts_with("_service_maintenance:") => Self::Maintenance,
            Status::Passing => Self::Passing,
            Status::Warning => Self::Warning,
            Status::Critical => Self::Critical,
        };
        checks.map(one).max().unwrap_or(Self::Passing)
    }
}

/// `GET agent/health/service/id/:id`
pub(super) async fn by_id(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let id = request.parameter(0);
    let local = api.core.registry().local();
    let found = super::agent_service::shown(api, &local).find(|shown| shown.id() == id);
    let Some(found) = found else {
        let text = format!("ServiceId {id} not found");
        let answer = if wants_text(request) {
            Answer::text(text)
        } else {
            Answer::json(json!({"AggregatedStatus": "critical", "Service": Value::Null, "Checks": []}))
        };
        return Ok(answer.status(StatusCode::NOT_FOUND).header("x-consul-reason", "critical"));
    };
    let (health, shape) = describe(api, &local, &found);
    Ok(answer(request, health, shape))
}

/// `GET agent/health/service/name/:name`: of several instances, the worst.
pub(super) async fn by_name(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let name = request.parameter(0);
    let local = api.core.registry().local();
    let found = super::agent_service::shown(api, &local).filter(|shown| shown.name() == name);
    let described: Vec<(Health, Value)> = found.map(|shown| describe(api, &local, &shown)).collect();
    let Some(worst) = described.iter().map(|(health, _)| *health).max() else {
        let text = format!("ServiceName {name} Not Found");
        let answer = if wants_text(request) { Answer::text(text) } else { Answer::json(json!([])) };
        return Ok(answer.status(StatusCode::NOT_FOUND).header("x-consul-reason", "critical"));
    };
    let shapes: Vec<Value> = described.into_iter().map(|(_, shape)| shape).collect();
    Ok(answer(request, worst, shapes.into()))
}

fn describe(api: &Api, local: &LocalState, shown: &Shown) -> (Health, Value) {
    let checks: Vec<&Check> = local.node_checks().chain(local.checks_of(&shown.instance.id)).collect();
    let health = Health::of(checks.iter().copied());
    let shapes: Vec<Value> = checks.into_iter().map(shape::check::check).collect();
    let datacenter = api.core.config().datacenter.as_str();
    let service = shape::service::local(shown, datacenter);
    (health, json!({"AggregatedStatus": health.as_str(), "Service": service, "Checks": shapes}))
}

fn answer(request: &Request, health: Health, shape: Value) -> Answer {
    let answer = if wants_text(request) { Answer::text(health.as_str()) } else { Answer::json(shape) };
    answer.status(health.code()).header("x-consul-reason", health.as_str())
}

fn wants_text(request: &Request) -> bool {
    let accepts = request.headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    request.query.get("format") == Some("text") || accepts.starts_with("text/plain")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_consuls() {
        let codes = [Health::Passing, Health::Warning, Health::Critical, Health::Maintenance]
            .map(|h| h.code().as_u16());
        assert_eq!(codes, [200, 429, 503, 503]);
        assert_eq!(Health::of([].into_iter()), Health::Passing);
    }
}
