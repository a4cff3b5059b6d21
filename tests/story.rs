//! The list of stories.

mod api;
mod certificates;
mod cli;
mod cluster;
mod config;
mod demo;
mod disk;
mod dns;
mod health_checks;
mod intentions;
mod join;
mod kv;
mod limits;
mod liveness;
mod lock;
mod operator;
mod query;
mod ran;
mod services;
mod snapshot;
mod stability;
mod traffic;
mod walls;

pub fn all() -> Vec<(&'static str, fn())> {
    [
        certificates::STORIES,
        api::STORIES,
        cli::STORIES,
        cluster::STORIES,
        config::STORIES,
        demo::STORIES,
        disk::STORIES,
        dns::STORIES,
        health_checks::STORIES,
        intentions::STORIES,
        join::STORIES,
        kv::STORIES,
        limits::STORIES,
        liveness::STORIES,
        lock::STORIES,
        operator::STORIES,
        query::STORIES,
        services::STORIES,
        snapshot::STORIES,
        stability::STORIES,
        traffic::STORIES,
        walls::STORIES,
    ]
    .concat()
}
