//! `/v1/agent/check…`: the checks of this host, and what applications report for theirs.

use purlin_model::CheckId;
use purlin_model::check::Status;
use purlin_model::definition::parse_check;
use purlin_model::definition::reader::{Problems, Table};
use serde_json::{Map, Value};

use super::Api;
use super::agent_service::{refuse_nameless, synced};
use super::answer::{Answer, Failure};
use super::read::filter_of;
use super::request::Request;
use super::shape::{self, schema};
use crate::registry::Origin;

/// `GET agent/checks`: a map by id.
pub(super) async fn list(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let filter = filter_of(request, schema::check)?;
    let local = api.core.registry().local();
    let mut map = Map::new();
    for (id, check) in &local.checks {
        let shape = shape::check::local(&check.check, check.definition.as_deref());
        if filter.as_ref().is_none_or(|filter| filter.keeps(&shape)) {
            map.insert(id.to_string(), shape);
        }
    }
    Ok(Answer::json(Value::Object(map)))
}

/// `PUT agent/check/register`
pub(super) async fn register(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let body = request.json()?;
    refuse_nameless(&body, &["id", "checkid", "name"], "Missing check name")?;
    let check = parse_check(&body, None)?;
    api.core.registry().register_check(check, Origin::Api).await?;
    Ok(synced(api).await)
}

/// `PUT agent/check/deregister/:id`
pub(super) async fn deregister(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let id = check_id(request)?;
    api.core.registry().deregister_check(&id).await?;
    Ok(synced(api).await)
}

/// `PUT agent/check/pass/:id?note=…`
pub(super) async fn pass(api: &Api, request: &Request) -> Result<Answer, Failure> {
    report(api, request, Status::Passing, note(request)).await
}

/// `PUT agent/check/warn/:id?note=…`
pub(super) async fn warn(api: &Api, request: &Request) -> Result<Answer, Failure> {
    report(api, request, Status::Warning, note(request)).await
}

/// `PUT agent/check/fail/:id?note=…`
pub(super) async fn fail(api: &Api, request: &Request) -> Result<Answer, Failure> {
    report(api, request, Status::Critical, note(request)).await
}

fn note(request: &Request) -> String {
    request.query.get("note").unwrap_or_default().to_owned()
}

/// `PUT agent/check/update/:id`, body `{"Status": …, "Output": …}`
pub(super) async fn update(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let (status, output) = parse_update(&request.json()?)?;
    report(api, request, status, output).await
}

fn parse_update(body: &Value) -> Result<(Status, String), Failure> {
    let problems = Problems::default();
    let table = Table::open(body, "check update", &problems);
    let read = table.map(|table| {
        let read = (table.text("Status").unwrap_or_default(), table.text("Output").unwrap_or_default());
        table.finish();
        read
    });
    let (faults, _) = problems.into_parts();
    let Some((status, output)) = read.filter(|_| faults.is_empty()) else {
        return Err(Failure::from(faults));
    };
    match status.as_str() {
        "passing" | "warning" | "critical" => {
            let status = Status::parse(&status).unwrap_or_default();
            Ok((status, output))
        }
        _ => Err(Failure::invalid(format!("Invalid check status: '{status}'"))),
    }
}

async fn report(api: &Api, request: &Request, status: Status, output: String) -> Result<Answer, Failure> {
    let id = check_id(request)?;
    let registry = api.core.registry();
    let before = registry.local().checks.get(&id).map(|check| check.check.status);
    registry.report(&id, status, &output)?;
    // A sign of life that changes nothing need not wait for a server.
    if before == Some(status) {
        return Ok(Answer::empty());
    }
    Ok(synced(api).await)
}

fn check_id(request: &Request) -> Result<CheckId, Failure> {
    CheckId::new(request.parameter(0)).map_err(|error| Failure::invalid(error.to_string()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn updates_are_read_whatever_the_case() {
        let update = parse_update(&json!({"status": "warning", "OUTPUT": "slow"}));
        assert_eq!(update, Ok((Status::Warning, "slow".into())));
        let failure = parse_update(&json!({"Status": "fine"})).unwrap_err();
        assert_eq!(failure, Failure::invalid("Invalid check status: 'fine'"));
        assert!(parse_update(&json!({"Status": "passing", "Level": 1})).is_err());
        assert!(parse_update(&json!([1, 2])).is_err());
    }
}
