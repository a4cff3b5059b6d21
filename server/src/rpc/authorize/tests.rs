//! Who may do what, line by line: every kind of caller against every kind of thing.

use purlin_model::{Datacenter, Revision, ServiceName};

use super::*;

fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

fn node(text: &str, role: NodeRole) -> Node {
    Node {
        id: None,
        name: name(text),
        datacenter: Datacenter::default(),
        address: "10.0.0.1".into(),
        tagged_addresses: Default::default(),
        meta: Default::default(),
        locality: None,
        mesh_port: None,
        role,
        status: NodeStatus::Alive,
        version: String::new(),
        create_index: Revision(0),
        modify_index: Revision(0),
    }
}

/// In the order of the callers: a stranger, the agent of h1, the server on s1.
type Line<'a> = (Resource<'a>, Access, [bool; 3]);

#[test]
fn the_matrix() {
    let (h1, h2, s1) = (name("h1"), name("h2"), name("s1"));
    let (own, other) = (node("h1", NodeRole::Agent), node("h2", NodeRole::Agent));
    let (promoted, server) = (node("h1", NodeRole::Server), node("s1", NodeRole::Server));
    let external = node("printer", NodeRole::External);
    let web = ServiceKey::new(ServiceName::new("web").unwrap());
    let host = |node| Resource::Host { name: node, claims: None };
    let lines: Vec<Line<'_>> = vec![
        (Resource::Door, Access::Write, [true, false, false]),
        (Resource::Shared, Access::Read, [false, true, true]),
        (Resource::Shared, Access::Write, [false, false, true]),
        (Resource::Policy, Access::Write, [false, true, true]),
        (Resource::Query, Access::Write, [false, true, true]),
        (Resource::Event, Access::Write, [false, true, true]),
        (Resource::Membership, Access::Write, [false, true, true]),
        (Resource::OwnIdentity, Access::Write, [false, true, true]),
        (Resource::Internal, Access::Write, [false, false, true]),
        // Nobody has a certificate of a service that it does not run.
        (Resource::Service(&web), Access::Write, [false, false, false]),
        (Resource::Host { name: &h1, claims: Some(&own) }, Access::Write, [false, true, false]),
        (Resource::Host { name: &h1, claims: Some(&promoted) }, Access::Write, [false, false, false]),
        (Resource::Host { name: &h2, claims: Some(&other) }, Access::Write, [false, false, false]),
        (Resource::Host { name: &s1, claims: Some(&server) }, Access::Write, [false, false, true]),
        (
            Resource::Host { name: &external.name, claims: Some(&external) },
            Access::Write,
            [false, true, true],
        ),
        (host(&h1), Access::Write, [false, true, true]),
        (Resource::Verdict { name: &h1, status: NodeStatus::Left }, Access::Write, [false, true, true]),
        (Resource::Verdict { name: &h1, status: NodeStatus::Alive }, Access::Write, [false, false, false]),
        (Resource::Verdict { name: &h2, status: NodeStatus::Failed }, Access::Write, [false, false, false]),
    ];
    let callers = [Caller::Stranger, Caller::Agent(h1.clone()), Caller::Server(s1.clone())];
    let state = State::new();
    for (resource, access, expected) in lines {
        for (caller, expected) in callers.iter().zip(expected) {
            let verdict = authorize(&state, caller, &resource, access);
            assert_eq!(verdict.is_ok(), expected, "{caller:?} {access:?} {resource:?}: {verdict:?}");
        }
    }
}

#[test]
fn a_service_and_a_member_of_another_mesh_are_nobody() {
    let domain = TrustDomain("one.mesh.internal".into());
    let member = |trust_domain: &str, subject| Peer::Member {
        identity: Identity { trust_domain: TrustDomain(trust_domain.into()), subject },
        certificate: [0; 32],
        issuer: None,
    };
    let agent = Subject::Agent { datacenter: Datacenter::default(), node: name("h1") };
    assert_eq!(
        Caller::of(&member("one.mesh.internal", agent.clone()), &domain),
        Ok(Caller::Agent(name("h1")))
    );
    assert!(Caller::of(&member("two.mesh.internal", agent), &domain).is_err());
    let web = ServiceKey::new(ServiceName::new("web").unwrap());
    let service = Identity::service(domain.clone(), Datacenter::default(), &web);
    assert!(
        Caller::of(&Peer::Member { identity: service, certificate: [0; 32], issuer: None }, &domain).is_err()
    );
    assert_eq!(Caller::of(&Peer::Stranger, &domain), Ok(Caller::Stranger));
}
