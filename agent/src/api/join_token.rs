//! `/v1/join-token`: what lets hosts in. Purlin's own. The secret is made here, shown once, and never sent to a
//! server: they keep its hash.

use std::time::Duration;

use purlin_model::command::{Command, Done, JoinToken, JoinTokenInfo};
use purlin_model::definition::reader::{Problems, Table};
use purlin_model::node::NodeRole;
use purlin_model::topic::{MeshInfo, Record, Topic};
use purlin_model::{Fault, Millis};
use purlin_wire::token::{JoinTokenText, Secret};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};

use super::Api;
use super::answer::{Answer, Failure};
use super::members::write;
use super::read::{asked, filtered, followed};
use super::request::Request;
use super::shape::{instant, schema};
use super::status::servers_in;

const DEFAULT_TTL: Duration = Duration::from_secs(3600);
const DEFAULT_USES: u32 = 10;
const MAX_TTL: Duration = Duration::from_secs(366 * 86_400);
const MAX_USES: u32 = 100_000;

/// What a token shall be.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    role: NodeRole,
    ttl: Duration,
    uses: u32,
}

/// `PUT join-token`, body `{"Role": "agent", "TTL": "1h", "Uses": 10}`
pub(super) async fn create(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let wanted = parse_wanted(&request.json_or_empty()?)?;
    let ([servers], _) = followed(api, request, [Topic::Servers]).await?;
    let servers: Vec<String> = servers_in(&servers).into_iter().map(|server| server.address).collect();
    if servers.is_empty() {
        return Err(Fault::unavailable(
            "no server is known that a new host could join: try again in a moment",
        )
        .into());
    }
    let (mesh, _) = super::connect::mesh(api, request).await?;
    let internal = |error: purlin_wire::token::TokenError| Failure::from(Fault::internal(error.to_string()));
    let secret = Secret::generate().map_err(internal)?;
    let now = api.core.config().clock.now();
    let token = JoinToken {
        id: uuid::Uuid::new_v4().to_string(),
        secret_sha256: secret.sha256(),
        role: wanted.role,
        expires: now.plus(wanted.ttl),
        uses: wanted.uses,
        created: now,
    };
    let text = JoinTokenText {
        servers,
        ca_fingerprint: active_root(&mesh)?,
        trust_domain: mesh.trust_domain,
        role: wanted.role,
        id: token.id.clone(),
        secret,
    };
    let text = text.encode().map_err(internal)?;
    let shape = json!({
        "Token": text,
        "ID": token.id,
        "Role": role_name(token.role),
        "Created": instant(token.created),
        "Expires": instant(token.expires),
        "Uses": token.uses,
    });
    write(api, request, Command::CreateJoinToken(token)).await?;
    Ok(Answer::json(shape).header("cache-control", "no-store"))
}

fn parse_wanted(body: &Value) -> Result<Wanted, Failure> {
    let problems = Problems::default();
    let read = Table::open(body, "join token", &problems).map(|table| {
        let role = match table.filled("Role").as_deref() {
            None | Some("agent") => NodeRole::Agent,
            Some("server") => NodeRole::Server,
            Some(other) => {
                table.refuse("Role", format!("{other:?} is not a role: it is \"agent\" or \"server\""));
                NodeRole::Agent
            }
        };
        // A span of zero is read as none; whoever wrote it did not mean the default.
        let ttl = match (table.span("TTL"), table.value("TTL")) {
            (None, Some(_)) if !problems.has_faults() => Duration::ZERO,
            (ttl, _) => ttl.unwrap_or(DEFAULT_TTL),
        };
        if ttl < Duration::from_secs(1) || ttl > MAX_TTL {
            table.refuse("TTL", "must be between 1s and 8784h (a year)");
        }
        let uses = table.number("Uses", 1..=u64::from(MAX_USES)).and_then(|uses| u32::try_from(uses).ok());
        table.finish();
        Wanted { role, ttl, uses: uses.unwrap_or(DEFAULT_USES) }
    });
    let (faults, _) = problems.into_parts();
    read.filter(|_| faults.is_empty()).ok_or_else(|| Failure::from(faults))
}

/// SHA-256 of the root by which a new host recognises the mesh.
fn active_root(mesh: &MeshInfo) -> Result<[u8; 32], Failure> {
    let root = mesh.roots.iter().find(|root| root.active).or_else(|| mesh.roots.first());
    let root = root.and_then(|root| CertificateDer::from_pem_slice(root.pem.as_bytes()).ok());
    let root = root.ok_or_else(|| Fault::internal("the root certificate of the mesh cannot be read"))?;
    Ok(purlin_wire::tls::fingerprint(&root))
}

/// `GET join-token`: without secrets.
pub(super) async fn list(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let ([contents], source) = asked(api, request, [Topic::JoinTokens]).await?;
    let tokens = contents.records.values().filter_map(|record| match record {
        Record::JoinToken(token) => Some(token),
        _ => None,
    });
    let now = api.core.config().clock.now();
    let shapes = tokens.map(|token| shape(token, now)).collect();
    Ok(source.json(filtered(request, schema::join_token, shapes)?.into()))
}

fn shape(token: &JoinTokenInfo, now: Millis) -> Value {
    json!({
        "ID": token.id,
        "Role": role_name(token.role),
        "Created": instant(token.created),
        "Expires": instant(token.expires),
        "Expired": token.expires <= now,
        "Uses": token.uses,
        "UsesLeft": token.uses_left,
    })
}

/// `DELETE join-token/:id`
pub(super) async fn revoke(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let id = request.parameter(0).to_owned();
    match write(api, request, Command::RevokeJoinToken { id: id.clone() }).await? {
        Done::Deleted { existed: false } => Err(Failure::not_found(format!(
            "there is no join token {id:?}: see \"purlin join-token list\", which knows the ids of all"
        ))),
        _ => Ok(Answer::json(true.into())),
    }
}

fn role_name(role: NodeRole) -> &'static str {
    match role {
        NodeRole::Server => "server",
        NodeRole::Agent => "agent",
        NodeRole::External => "external",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_for_one_agent_and_one_hour_unless_said_otherwise() {
        let wanted = parse_wanted(&json!({}));
        assert_eq!(wanted, Ok(Wanted { role: NodeRole::Agent, ttl: DEFAULT_TTL, uses: DEFAULT_USES }));
        let wanted = parse_wanted(&json!({"role": "server", "ttl": "10m", "uses": 3}));
        assert_eq!(wanted, Ok(Wanted { role: NodeRole::Server, ttl: Duration::from_secs(600), uses: 3 }));
    }

    #[test]
    fn tokens_without_bounds_are_refused() {
        for body in [
            json!({"Role": "king"}),
            json!({"TTL": "0s"}),
            json!({"TTL": "10ms"}),
            json!({"TTL": "99999h"}),
            json!({"Uses": 0}),
            json!({"Uses": 100_001}),
            json!({"Usess": 1}),
        ] {
            assert!(parse_wanted(&body).is_err(), "{body}");
        }
    }
}
