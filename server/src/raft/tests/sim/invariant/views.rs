//! Once faults are over, what every agent holds is what the servers have.

use crate::raft::tests::sim::agent::View;
use crate::raft::tests::sim::world::World;

pub(super) fn check(world: &World, views: &[View]) -> Result<(), String> {
    let lives = world.lives();
    let truth = lives.first().ok_or("no server runs")?.hub.state();
    for (agent, view) in views.iter().enumerate() {
        for (topic, contents) in view {
            let right = truth.read(topic).records;
            if contents.records != right {
                let held = &contents.records;
                return Err(format!("agent {agent} holds {topic} as {held:?}, right is {right:?}"));
            }
        }
    }
    Ok(())
}
