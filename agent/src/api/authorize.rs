//! Verdicts on a call, from the intentions that this agent follows: `intentions/check` and `connect/authorize`.

use purlin_model::config_entry::{ConfigEntry, ConfigKind};
use purlin_model::definition::reader::{Problems, Table};
use purlin_model::identity::Identity;
use purlin_model::intention::{Action, Intention, Policy, Rule};
use purlin_model::topic::Topic;
use purlin_model::{ServiceKey, ServiceName};
use serde_json::{Value, json};

use super::Api;
use super::answer::{Answer, Failure};
use super::config::entries;
use super::read::{Source, followed};
use super::request::Request;
use super::shape::intention::pairs;

/// `GET connect/intentions/check?source=…&destination=…`
pub(super) async fn check(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let side = |name: &str| -> Result<ServiceKey, Failure> {
        let missing = || Failure::invalid(format!("required query parameter '{name}' not set"));
        let text = request.query.filled(name).ok_or_else(missing)?;
        let text = super::intentions::bare_name(text)?;
        let name = ServiceName::new(text)
            .map_err(|error| Failure::invalid(format!("{name} is invalid: {error}")))?;
        Ok(ServiceKey::new(name))
    };
    if request.query.filled("source-type").is_some_and(|kind| kind != "consul") {
        return Err(Failure::invalid("SourceType must be set to 'consul'"));
    }
    let (source, destination) = (side("source")?, side("destination")?);
    let (policy, from) = policy(api, request, destination).await?;
    Ok(from.json(json!({"Allowed": verdict(&policy, &source).0})))
}

/// `POST agent/connect/authorize`, body `{"Target": …, "ClientCertURI": …, "ClientCertSerial": …}`
pub(super) async fn authorize(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let (target, uri) = parse_body(&request.json()?)?;
    let answer = |allowed: bool, reason: String| json!({"Authorized": allowed, "Reason": reason});
    let identity =
        Identity::parse(&uri).map_err(|error| Failure::invalid(format!("ClientCertURI: {error}")))?;
    let (mesh, _) = super::connect::mesh(api, request).await?;
    if identity.trust_domain != mesh.trust_domain {
        let reason = format!("Identity from an external trust domain: {}", identity.trust_domain);
        return Ok(Answer::json(answer(false, reason)));
    }
    let Some(source) = identity.service_key() else {
        return Err(Failure::invalid("ClientCertURI: not the identity of a service"));
    };
    let (policy, from) = policy(api, request, ServiceKey::new(target)).await?;
    let (allowed, reason) = verdict(&policy, &source);
    Ok(from.json(answer(allowed, reason)))
}

fn parse_body(body: &Value) -> Result<(ServiceName, String), Failure> {
    let problems = Problems::default();
    let read = Table::open(body, "authorization", &problems).map(|table| {
        let read = (table.filled("Target"), table.filled("ClientCertURI"));
        table.ignore(&["ClientCertSerial"]);
        table.only(&["Namespace", "Partition"], "default");
        table.finish();
        read
    });
    let (faults, _) = problems.into_parts();
    match read.filter(|_| faults.is_empty()) {
        None => Err(Failure::from(faults)),
        Some((None, _)) => Err(Failure::invalid("Target service must be specified")),
        Some((_, None)) => Err(Failure::invalid("ClientCertURI must be specified")),
        Some((Some(target), Some(uri))) => {
            let target =
                ServiceName::new(target).map_err(|error| Failure::invalid(format!("Target: {error}")))?;
            Ok((target, uri))
        }
    }
}

/// Everything that can decide a call to `destination`.
async fn policy(api: &Api, request: &Request, destination: ServiceKey) -> Result<(Policy, Source), Failure> {
    let config = |name: &str| Topic::Config(ConfigKind::ServiceIntentions, Some(name.to_owned()));
    let topics = [config(destination.name.as_str()), config("*"), Topic::Mesh];
    let ([own, any, mesh], source) = followed(api, request, topics).await?;
    let default = mesh.records.values().find_map(|record| match record {
        purlin_model::topic::Record::Mesh(mesh) => Some(mesh.default_intention),
        _ => None,
    });
    let intentions = entries(&own).chain(entries(&any)).flat_map(intentions_of).collect();
    // Nobody said what holds: nothing is allowed.
    Ok((Policy::new(destination, default.unwrap_or(Action::Deny), intentions), source))
}

fn intentions_of(entry: &ConfigEntry) -> impl Iterator<Item = Intention> {
    pairs(entry).map(|pair| Intention {
        source: pair.source.source.clone(),
        source_namespace: pair.source.source_namespace.clone(),
        destination: pair.destination(),
        rule: pair.source.rule.clone(),
    })
}

/// Whether a connection may be made, and why. Permissions decide on requests, which are not known here: denied, as in
/// Consul.
fn verdict(policy: &Policy, source: &ServiceKey) -> (bool, String) {
    match policy.deciding(source) {
        None => (
            policy.default == Action::Allow,
            format!(
                "Default behavior: no intention matches, default_intention_policy is {}",
                policy.default.as_str()
            ),
        ),
        Some(intention) => {
            let allowed = intention.rule == Rule::L4(Action::Allow);
            let layer = if matches!(intention.rule, Rule::L4(_)) { "L4" } else { "L7" };
            (allowed, format!("Matched {layer} intention: {intention}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use purlin_model::Namespace;
    use purlin_model::intention::Party;

    use super::*;

    fn key(name: &str) -> ServiceKey {
        ServiceKey::new(ServiceName::new(name).unwrap())
    }

    fn policy(rules: &[(&str, &str, Rule)]) -> Policy {
        let intentions = rules.iter().map(|(source, destination, rule)| Intention {
            source: Party::parse(source).unwrap(),
            source_namespace: Namespace::default(),
            destination: Party::parse(destination).unwrap(),
            rule: rule.clone(),
        });
        Policy::new(key("api"), Action::Deny, intentions.collect())
    }

    #[test]
    fn the_most_exact_intention_decides_and_permissions_count_as_denied() {
        let (allow, deny) = (Rule::L4(Action::Allow), Rule::L4(Action::Deny));
        let policy =
            policy(&[("*", "api", deny), ("web", "api", allow), ("batch", "api", Rule::L7(Vec::new()))]);
        assert!(verdict(&policy, &key("web")).0);
        let (allowed, reason) = verdict(&policy, &key("batch"));
        assert!(!allowed && reason.contains("L7"), "{reason}");
        assert!(!verdict(&policy, &key("other")).0);
    }

    #[test]
    fn without_an_intention_the_default_decides() {
        let (allowed, reason) = verdict(&policy(&[]), &key("web"));
        assert!(!allowed && reason.contains("default_intention_policy is deny"), "{reason}");
    }

    #[test]
    fn bodies_are_read_whatever_the_case() {
        let body = json!({"target": "web", "clientcerturi": "spiffe://x", "ClientCertSerial": "1"});
        assert_eq!(parse_body(&body).map(|(target, _)| target.to_string()), Ok("web".into()));
        assert!(parse_body(&json!({"Target": "web"})).is_err());
    }
}
