//! `/v1/connect/ca/configuration`: how certificates are made, in Consul's words.

use std::time::Duration;

use purlin_model::command::Command;
use purlin_model::duration;
use purlin_model::topic::CaConfig;
use serde_json::{Map, Value, json};

use super::Api;
use super::answer::{Answer, Failure};
use super::connect::mesh;
use super::members::write;
use super::request::Request;

const LEAF: &str = "LeafCertTTL";
const INTERMEDIATE: &str = "IntermediateCertTTL";
const ROTATION: &str = "RotationPeriod";
/// What Consul takes here and this certificate authority does not do.
const FOREIGN: [&str; 7] = [
    "PrivateKey",
    "RootCert",
    "RootCertTTL",
    "PrivateKeyType",
    "PrivateKeyBits",
    "CSRMaxPerSecond",
    "CSRMaxConcurrent",
];

/// `GET connect/ca/configuration`
pub(super) async fn get(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let (mesh, source) = mesh(api, request).await?;
    let span = |ms| duration::format(Duration::from_millis(ms));
    let modified = mesh.roots.iter().map(|root| root.modify_index.0).max().unwrap_or_default();
    let config = mesh.ca_config();
    Ok(source.json(json!({
        "Provider": "consul",
        "Config": {
            LEAF: span(config.leaf_ttl_ms),
            INTERMEDIATE: span(config.intermediate_ttl_ms),
            ROTATION: span(config.rotation_period_ms),
        },
        "State": Value::Null,
        "ForceWithoutCrossSigning": false,
        "CreateIndex": modified,
        "ModifyIndex": modified,
    })))
}

/// `PUT connect/ca/configuration`: what is not named keeps its value.
pub(super) async fn put(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let body = request.json()?;
    let (mesh, _) = mesh(api, request).await?;
    let config = parse(&body, mesh.ca_config()).map_err(Failure::invalid)?;
    write(api, request, Command::SetCaConfig(config)).await?;
    Ok(Answer::json(Value::Bool(true)))
}

fn parse(body: &Value, mut config: CaConfig) -> Result<CaConfig, String> {
    let fields = body.as_object().ok_or("expected an object with Provider and Config")?;
    for (name, value) in fields {
        match name.as_str() {
            "Provider" if value.as_str() == Some("consul") => {}
            "Provider" => {
                return Err(format!("Provider {value} is not known here: the built-in one is \"consul\""));
            }
            "Config" => settings(value.as_object().ok_or("Config must be an object")?, &mut config)?,
            "ForceWithoutCrossSigning" | "State" | "CreateIndex" | "ModifyIndex" => {}
            other => {
                return Err(format!("unknown key {other:?} of the certificate authority's configuration"));
            }
        }
    }
    if !fields.contains_key("Provider") {
        return Err("Provider is missing: the built-in one is \"consul\"".into());
    }
    Ok(config)
}

fn settings(given: &Map<String, Value>, config: &mut CaConfig) -> Result<(), String> {
    for (name, value) in given {
        // Consul's clients write both `LeafCertTTL` and `leaf_cert_ttl`.
        let plain: String = name.chars().filter(|c| *c != '_').collect();
        let is = |known: &str| plain.eq_ignore_ascii_case(known);
        let target = if is(LEAF) {
            &mut config.leaf_ttl_ms
        } else if is(INTERMEDIATE) {
            &mut config.intermediate_ttl_ms
        } else if is(ROTATION) {
            &mut config.rotation_period_ms
        } else if FOREIGN.iter().any(|known| is(known)) {
            return Err(format!(
                "Config.{name} cannot be set: this certificate authority makes its own keys"
            ));
        } else {
            return Err(format!(
                "unknown key {name:?} in Config, expected {LEAF}, {INTERMEDIATE} or {ROTATION}"
            ));
        };
        let text =
            value.as_str().ok_or_else(|| format!("Config.{name} must be a duration such as \"72h\""))?;
        let span = duration::parse(text).map_err(|why| format!("Config.{name}: {why}"))?;
        *target = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn before() -> CaConfig {
        CaConfig { leaf_ttl_ms: 1, intermediate_ttl_ms: 2, rotation_period_ms: 3 }
    }

    #[test]
    fn consuls_words_are_taken_and_what_is_not_named_stays() {
        let body = json!({"Provider": "consul", "Config": {"LeafCertTTL": "72h", "rotation_period": "1h"}});
        let hour = 3_600_000;
        let wanted = CaConfig { leaf_ttl_ms: 72 * hour, intermediate_ttl_ms: 2, rotation_period_ms: hour };
        assert_eq!(parse(&body, before()), Ok(wanted));
        assert_eq!(parse(&json!({"Provider": "consul"}), before()), Ok(before()));
    }

    #[test]
    fn what_cannot_be_done_is_refused_by_name() {
        let refused = |body: Value| parse(&body, before()).unwrap_err();
        assert!(refused(json!({"Provider": "vault"})).contains("vault"));
        assert!(refused(json!({"Config": {}})).contains("Provider is missing"));
        let config = |config: Value| refused(json!({"Provider": "consul", "Config": config}));
        assert!(config(json!({"PrivateKey": "x"})).contains("PrivateKey cannot be set"));
        assert!(config(json!({"LeafCertTLT": "1h"})).contains("unknown key \"LeafCertTLT\""));
        assert!(config(json!({"LeafCertTTL": 72})).contains("must be a duration"));
        assert!(config(json!({"LeafCertTTL": "soon"})).contains("Config.LeafCertTTL"));
    }
}
