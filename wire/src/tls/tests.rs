use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::{ClientConfig, ClientConnection, NamedGroup, ProtocolVersion, ServerConfig, ServerConnection};
use rustls_pki_types::ServerName;

use super::{
    ALPN_JOIN, ALPN_MEMBER, Anchors, ControlCertificate, Credentials, IdentityCheck, Presence, TlsError,
    anonymous_client_config, client_config, client_verifier, csr_for_key, exactly, explain, fingerprint,
    member_of, new_key, pinned_ca_verifier, server_config, server_config_with, server_of, server_verifier,
    service_of, spiffe_identity,
};
use crate::testing::TestCa;

const HOUR: Duration = Duration::from_secs(3600);

/// Which side gave up, and its words.
type Failure = (&'static str, String);

fn handshake(
    client: ClientConfig,
    server: ServerConfig,
) -> Result<(ClientConnection, ServerConnection), Failure> {
    let name = ServerName::try_from("any.name").unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets().map_err(|e| ("server", explain(&e)))?;
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets().map_err(|e| ("client", explain(&e)))?;
        }
    }
    Ok((client, server))
}

fn server(ca: &TestCa, own: &Credentials, check: IdentityCheck) -> ServerConfig {
    let roots = super::root_store(&[ca.root_der().into()]).unwrap();
    let verifier = client_verifier(roots, Presence::Required, check).unwrap();
    server_config(own, verifier, &[ALPN_MEMBER]).unwrap()
}

fn client(ca: &TestCa, own: &Credentials, check: IdentityCheck) -> ClientConfig {
    let roots = super::root_store(&[ca.root_der().into()]).unwrap();
    client_config(own, server_verifier(roots, check), &[ALPN_MEMBER]).unwrap()
}

/// `web` calls `api`, each expecting the other's identity.
fn services(
    web: &Credentials,
    api: &Credentials,
    ca: &TestCa,
) -> Result<(ClientConnection, ServerConnection), Failure> {
    let client = client(ca, web, exactly(ca.service("api")));
    handshake(client, server(ca, api, service_of(ca.trust_domain.clone())))
}

fn refused(result: Result<(ClientConnection, ServerConnection), Failure>, side: &str, words: &str) {
    let Err((gave_up, why)) = result else { panic!("accepted, but should say {words}") };
    assert!(gave_up == side && why.contains(words), "{gave_up}: {why}");
}

#[test]
fn members_meet_in_tls_1_3_with_post_quantum_key_exchange() {
    let ca = TestCa::new("a.mesh.internal");
    let (web, api) = (ca.issue(&ca.service("web")), ca.issue(&ca.service("api")));
    let (client, server) = services(&web, &api, &ca).unwrap();
    assert_eq!(client.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    let group = server.negotiated_key_exchange_group().map(|group| group.name());
    assert_eq!(group, Some(NamedGroup::X25519MLKEM768));
    assert_eq!(client.alpn_protocol(), Some(ALPN_MEMBER));
    let leaf = &server.peer_certificates().unwrap()[0];
    assert_eq!(spiffe_identity(leaf).unwrap(), ca.service("web"));
    assert_eq!(fingerprint(leaf), web.fingerprint());
}

#[test]
fn resumption_is_not_offered() {
    let ca = TestCa::new("a.mesh.internal");
    let (web, api) = (ca.issue(&ca.service("web")), ca.issue(&ca.service("api")));
    let (mut client, mut server) = services(&web, &api, &ca).unwrap();
    let mut bytes = Vec::new();
    while server.wants_write() {
        server.write_tls(&mut bytes).unwrap();
    }
    client.read_tls(&mut &bytes[..]).unwrap();
    client.process_new_packets().unwrap();
    assert_eq!(client.tls13_tickets_received(), 0);
}

#[test]
fn the_wrong_identity_is_refused_by_name_on_either_side() {
    let ca = TestCa::new("a.mesh.internal");
    let (web, db) = (ca.issue(&ca.service("web")), ca.issue(&ca.service("db")));
    refused(
        services(&web, &db, &ca),
        "client",
        "svc/db, not spiffe://a.mesh.internal/ns/default/dc/dc1/svc/api",
    );
    let (agent, api) = (ca.issue(&ca.agent("host-1")), ca.issue(&ca.service("api")));
    refused(services(&agent, &api, &ca), "server", "not a service of a.mesh.internal");
}

#[test]
fn a_service_is_no_member_and_an_agent_no_server() {
    let ca = TestCa::new("a.mesh.internal");
    let domain = &ca.trust_domain;
    for (identity, member, is_server) in
        [(ca.service("web"), false, false), (ca.agent("a"), true, false), (ca.server("s"), true, true)]
    {
        assert_eq!(member_of(domain.clone())(&identity).is_ok(), member, "{identity}");
        assert_eq!(server_of(domain.clone())(&identity).is_ok(), is_server, "{identity}");
    }
    let other = TestCa::new("b.mesh.internal");
    assert!(server_of(domain.clone())(&other.server("s")).is_err());
}

#[test]
fn another_ca_is_refused_on_either_side() {
    let (ca, other) = (TestCa::new("a.mesh.internal"), TestCa::new("a.mesh.internal"));
    let (web, api) = (ca.issue(&ca.service("web")), ca.issue(&ca.service("api")));
    let (stranger, imposter) = (other.issue(&other.service("web")), other.issue(&other.service("api")));
    refused(services(&web, &imposter, &ca), "client", "another ca");
    refused(services(&stranger, &api, &ca), "server", "another ca");
}

#[test]
fn a_chain_with_a_revoked_certificate_is_refused_on_either_side() {
    let ca = TestCa::new("one.mesh.internal");
    let (agent, own) = (ca.issue(&ca.agent("a")), ca.issue(&ca.server("s")));
    let roots = super::root_store(&[ca.root_der().into()]).unwrap();
    // The leaf itself, or the authority that signed it.
    for (of_agent, of_server) in [(0, 0), (1, 1)] {
        let without = |credentials: &Credentials, at: usize| {
            let revoked = [fingerprint(&credentials.chain()[at])].into();
            Anchors::new(roots.clone(), Arc::new(revoked))
        };
        let picky = client_verifier(
            without(&agent, of_agent),
            Presence::Required,
            member_of(ca.trust_domain.clone()),
        );
        let picky = server_config(&own, picky.unwrap(), &[ALPN_MEMBER]).unwrap();
        let plain = client(&ca, &agent, server_of(ca.trust_domain.clone()));
        refused(handshake(plain, picky), "server", "revoked");

        let picky = server_verifier(without(&own, of_server), server_of(ca.trust_domain.clone()));
        let picky = client_config(&agent, picky, &[ALPN_MEMBER]).unwrap();
        let plain = server(&ca, &own, member_of(ca.trust_domain.clone()));
        refused(handshake(picky, plain), "client", "revoked");
    }
}

#[test]
fn expiry_is_named_on_either_side() {
    let ca = TestCa::new("a.mesh.internal");
    let now = SystemTime::now();
    let old = |name: &str| {
        let uri = ca.service(name).to_string();
        ca.issue_within(&[&uri], now - 2 * HOUR, now - HOUR).unwrap()
    };
    let early = |name: &str| {
        let uri = ca.service(name).to_string();
        ca.issue_within(&[&uri], now + HOUR, now + 2 * HOUR).unwrap()
    };
    let (web, api) = (ca.issue(&ca.service("web")), ca.issue(&ca.service("api")));
    refused(services(&web, &old("api"), &ca), "client", "expired");
    refused(services(&old("web"), &api, &ca), "server", "expired");
    refused(services(&web, &early("api"), &ca), "client", "valid only in");
}

#[test]
fn no_certificate_is_refused_where_one_is_required() {
    let ca = TestCa::new("a.mesh.internal");
    let api = ca.issue(&ca.service("api"));
    let verifier = server_verifier(api.root_store(), exactly(ca.service("api")));
    let anonymous = anonymous_client_config(verifier, &[ALPN_MEMBER]).unwrap();
    let server = server(&ca, &api, service_of(ca.trust_domain.clone()));
    refused(handshake(anonymous, server), "server", "shows no certificate");
}

#[test]
fn protocols_must_match() {
    let ca = TestCa::new("a.mesh.internal");
    let (web, api) = (ca.issue(&ca.service("web")), ca.issue(&ca.service("api")));
    let mut client = client(&ca, &web, exactly(ca.service("api")));
    client.alpn_protocols = vec![b"other".to_vec()];
    refused(handshake(client, server(&ca, &api, service_of(ca.trust_domain.clone()))), "server", "protocol");
}

/// One who joins meets a server that shows its root, or not.
fn join(
    own: &Credentials,
    shows_root: bool,
    pinned: [u8; 32],
) -> Result<(ClientConnection, ServerConnection), Failure> {
    let check = member_of(own.identity().trust_domain.clone());
    let verifier = client_verifier(own.root_store(), Presence::Optional, check).unwrap();
    let config = if shows_root {
        server_config_with(Arc::new(ControlCertificate::new(own)), verifier, &[ALPN_MEMBER, ALPN_JOIN])
    } else {
        server_config(own, verifier, &[ALPN_MEMBER, ALPN_JOIN])
    };
    let joiner = anonymous_client_config(pinned_ca_verifier(pinned), &[ALPN_JOIN]).unwrap();
    handshake(joiner, config.unwrap())
}

#[test]
fn one_who_joins_trusts_the_pinned_ca_alone() {
    let (ca, other) = (TestCa::new("a.mesh.internal"), TestCa::new("a.mesh.internal"));
    let server = ca.issue(&ca.server("s"));
    assert!(join(&server, true, ca.fingerprint()).is_ok());
    refused(join(&server, true, other.fingerprint()), "client", "another ca");
    refused(join(&server, false, ca.fingerprint()), "client", "another ca");
    // To know a server's own certificate is no reason to take it for a ca.
    refused(join(&server, true, server.fingerprint()), "client", "another ca");
}

#[test]
fn one_who_joins_talks_to_servers_only_and_not_to_a_shown_root_with_another_chain() {
    let (ca, other) = (TestCa::new("a.mesh.internal"), TestCa::new("a.mesh.internal"));
    refused(join(&ca.issue(&ca.agent("a")), true, ca.fingerprint()), "client", "not a server");
    // Shows the right root beside a chain of its own.
    let (key, csr) = super::new_key_and_csr().unwrap();
    let chain = other.sign(&csr, &other.server("s"));
    let imposter = Credentials::from_der(chain, &key, vec![ca.root_der()]).unwrap();
    refused(join(&imposter, true, ca.fingerprint()), "client", "another ca");
}

#[test]
fn members_are_not_burdened_with_the_root() {
    let ca = TestCa::new("a.mesh.internal");
    let own = ca.issue(&ca.server("s"));
    let (joiner, _) = join(&own, true, ca.fingerprint()).unwrap();
    assert_eq!(joiner.peer_certificates().map(<[_]>::len), Some(3));
    let verifier =
        client_verifier(own.root_store(), Presence::Optional, member_of(ca.trust_domain.clone())).unwrap();
    let server =
        server_config_with(Arc::new(ControlCertificate::new(&own)), verifier, &[ALPN_MEMBER]).unwrap();
    let member = client(&ca, &ca.issue(&ca.agent("a")), server_of(ca.trust_domain.clone()));
    let (member, _) = handshake(member, server).unwrap();
    assert_eq!(member.peer_certificates().map(<[_]>::len), Some(2));
}

#[test]
fn an_identity_is_exactly_one_uri_of_ours() {
    let ca = TestCa::new("a.mesh.internal");
    let now = SystemTime::now();
    let (web, api) = (ca.service("web").to_string(), ca.service("api").to_string());
    for uris in [vec![], vec![web.as_str(), api.as_str()], vec!["https://example.com/"]] {
        let made = ca.issue_within(&uris, now, now + HOUR);
        assert!(matches!(made, Err(TlsError::NoIdentity(_))), "{uris:?}");
    }
    assert!(matches!(spiffe_identity(b"nonsense"), Err(TlsError::BadCertificate(_))));
    let mut longer = ca.issue(&ca.service("web")).chain()[0].to_vec();
    longer.push(0);
    assert!(matches!(spiffe_identity(&longer), Err(TlsError::BadCertificate(_))));
}

#[test]
fn credentials_that_do_not_fit_together_are_refused() {
    let ca = TestCa::new("a.mesh.internal");
    let (key, csr) = super::new_key_and_csr().unwrap();
    let chain = ca.sign(&csr, &ca.service("web"));
    let roots = || vec![ca.root_der()];
    let credentials = Credentials::from_der(chain.clone(), &key, roots()).unwrap();
    assert!(credentials.not_before() < credentials.not_after());
    assert!(!format!("{credentials:?}").contains("key"), "{credentials:?}");
    let other = new_key().unwrap();
    let mismatch = Credentials::from_der(chain.clone(), &other, roots());
    assert!(matches!(mismatch, Err(TlsError::KeyMismatch(_))));
    assert!(matches!(Credentials::from_der(chain.clone(), &key, vec![]), Err(TlsError::NoRoots)));
    assert!(matches!(Credentials::from_der(chain, b"x", roots()), Err(TlsError::BadKey(_))));
    assert!(matches!(Credentials::from_der(vec![], &key, roots()), Err(TlsError::BadCertificate(_))));
}

#[test]
fn a_request_can_be_made_again_for_the_same_key() {
    let ca = TestCa::new("a.mesh.internal");
    let key = new_key().unwrap();
    let chain = ca.sign(&csr_for_key(&key).unwrap(), &ca.agent("a"));
    assert!(Credentials::from_der(chain, &key, vec![ca.root_der()]).is_ok());
}
