//! Join tokens: who may come in, for how long, and how often. Only a secret's SHA-256 is ever here.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use purlin_model::command::{Done, Join, JoinToken, JoinTokenInfo};
use purlin_model::node::NodeRole;
use purlin_model::topic::Topic;
use purlin_model::{Fault, FaultCode};
use serde::{Deserialize, Serialize};

use super::Draft;

/// Tokens that may exist at one time.
pub(super) const TOKENS: usize = 1_000;
/// Joins that one token may allow, which bounds the keys that are remembered with it.
pub(super) const USES: u32 = 10_000;
const SHA256_BYTES: usize = 32;
const ID_BYTES: usize = 64;

pub(super) type Tokens = OrdMap<String, Arc<Token>>;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Token {
    pub(super) token: JoinToken,
    /// SHA-256 of every key that joined with it.
    pub(super) keys: OrdSet<Vec<u8>>,
}

impl Token {
    pub(super) fn info(&self) -> JoinTokenInfo {
        let used = u32::try_from(self.keys.len()).unwrap_or(u32::MAX);
        JoinTokenInfo {
            id: self.token.id.clone(),
            role: self.token.role,
            created: self.token.created,
            expires: self.token.expires,
            uses: self.token.uses,
            uses_left: self.token.uses.saturating_sub(used),
        }
    }
}

fn role_name(role: NodeRole) -> &'static str {
    match role {
        NodeRole::Server => "server",
        NodeRole::Agent => "agent",
        NodeRole::External => "external node",
    }
}

impl Draft {
    pub(super) fn create_token(&mut self, token: &JoinToken) -> Result<Done, Fault> {
        self.mesh()?;
        if token.id.is_empty() || token.id.len() > ID_BYTES || token.secret_sha256.len() != SHA256_BYTES {
            return Err(Fault::invalid(
                "a join token needs an id of 1 to 64 bytes and a SHA-256 of its secret",
            ));
        }
        if token.role == NodeRole::External {
            return Err(Fault::invalid("a join token is for an agent or a server"));
        }
        if !(1..=USES).contains(&token.uses) {
            return Err(Fault::invalid(format!("a join token allows 1 to {USES} uses, not {}", token.uses)));
        }
        if token.expires <= self.at {
            return Err(Fault::invalid("a join token must expire in the future: give it a longer ttl"));
        }
        if self.state.tokens.contains_key(&token.id) {
            return Err(Fault::conflict(format!("join token {} exists", token.id)));
        }
        self.drop_expired_tokens();
        if self.state.tokens.len() >= TOKENS {
            return Err(Fault::new(
                FaultCode::TooLarge,
                format!("there are {TOKENS} join tokens: revoke some with `purlin join-token revoke ID`"),
            ));
        }
        let kept = Token { token: token.clone(), keys: OrdSet::new() };
        self.state.tokens.insert(token.id.clone(), Arc::new(kept));
        self.touch(Topic::JoinTokens, token.id.as_str());
        Ok(Done::Yes)
    }

    fn drop_expired_tokens(&mut self) {
        let expired: Vec<String> = self
            .state
            .tokens
            .iter()
            .filter(|(_, token)| token.token.expires <= self.at)
            .map(|(id, _)| id.clone())
            .collect();
        for id in expired {
            self.state.tokens.remove(&id);
            self.touch(Topic::JoinTokens, id);
        }
    }

    pub(super) fn revoke_token(&mut self, id: &str) -> Result<Done, Fault> {
        let existed = self.state.tokens.remove(id).is_some();
        if existed {
            self.touch(Topic::JoinTokens, id);
        }
        Ok(Done::Deleted { existed })
    }

    /// Checks a join against its token and counts the use, once for each joining key.
    pub(super) fn use_token(&mut self, join: &Join) -> Result<(), Fault> {
        let id: String = join.token.chars().take(ID_BYTES).collect();
        let known =
            self.state.tokens.get(&join.token).filter(|t| t.token.secret_sha256 == join.secret_sha256);
        let Some(known) = known else {
            return Err(Fault::forbidden(format!(
                "join token {id:?} is not known here: it was revoked, or it is not complete"
            )));
        };
        let info = known.info();
        if info.expires <= self.at {
            return Err(Fault::forbidden(format!(
                "join token {id} has expired: make another with `purlin join-token create`"
            )));
        }
        if info.role != join.role {
            let (given, wanted) = (role_name(info.role), role_name(join.role));
            return Err(Fault::forbidden(format!(
                "join token {id} is for role {given}, not {wanted}: make one with `purlin join-token create --role \
                 {wanted}`"
            )));
        }
        if join.key_sha256.len() != SHA256_BYTES {
            return Err(Fault::invalid("the joining key's SHA-256 must have 32 bytes"));
        }
        if known.keys.contains(&join.key_sha256) {
            return Ok(());
        }
        if info.uses_left == 0 {
            return Err(Fault::forbidden(format!(
                "join token {id} is used up ({} uses): make another with `purlin join-token create`",
                info.uses
            )));
        }
        let mut known = (**known).clone();
        known.keys.insert(join.key_sha256.clone());
        self.state.tokens.insert(join.token.clone(), Arc::new(known));
        self.touch(Topic::JoinTokens, join.token.as_str());
        Ok(())
    }
}
