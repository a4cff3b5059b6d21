//! `purlin snapshot`: the whole state of the mesh as one file: save it, look into it, restore it.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path as FilePath, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use purlin_server::backup;
use serde_json::json;

use super::output::{Format, Screen, Table};
use super::{Session, help};
use crate::client::Path;

/// Save, restore and inspect snapshots of the mesh's state
#[derive(Debug, Subcommand)]
#[command(after_help = help::SNAPSHOT)]
pub(super) enum SnapshotVerb {
    Save(SaveArgs),
    Restore(RestoreArgs),
    Inspect(InspectArgs),
}

/// Save the state of the mesh to a file, and verify the file
#[derive(Debug, Args)]
#[command(after_help = help::SNAPSHOT_SAVE)]
pub(super) struct SaveArgs {
    /// Where to; it is replaced only by a snapshot that was verified
    file: PathBuf,
    /// Take it from any server, which may be behind and need not know a leader
    #[arg(long)]
    stale: bool,
}

/// Replace the state of the mesh by that of a file
#[derive(Debug, Args)]
#[command(after_help = help::SNAPSHOT_RESTORE)]
pub(super) struct RestoreArgs {
    /// What `purlin snapshot save` wrote
    file: PathBuf,
}

/// Verify a file and tell what is in it; asks no server
#[derive(Debug, Args)]
#[command(after_help = help::SNAPSHOT_INSPECT)]
pub(super) struct InspectArgs {
    /// What `purlin snapshot save` wrote, or a file of a server's data_dir/snapshots
    file: PathBuf,
}

pub(super) async fn run(session: &mut Session, verb: &SnapshotVerb) -> anyhow::Result<ExitCode> {
    match verb {
        SnapshotVerb::Save(args) => save(session, args).await,
        SnapshotVerb::Restore(args) => restore(session, args).await,
        SnapshotVerb::Inspect(args) => inspect(args, session.format),
    }
}

async fn save(session: &mut Session, args: &SaveArgs) -> anyhow::Result<ExitCode> {
    let unverified = beside(&args.file);
    let saved = download(session, args, &unverified).await;
    let found = match saved.and_then(|()| Ok(backup::inspect(&unverified)?)) {
        Ok(found) => found,
        Err(error) => {
            let _ = std::fs::remove_file(&unverified);
            return Err(error);
        }
    };
    std::fs::rename(&unverified, &args.file)
        .with_context(|| format!("cannot put the snapshot in place at {}", args.file.display()))?;
    if session.json() {
        session.screen.json(&json!({
            "File": args.file, "Index": found.revision, "Size": found.bytes, "ID": found.id,
        }))?;
    } else {
        session.screen.line(&format!("Saved and verified snapshot to index {}", found.revision))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn beside(file: &FilePath) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".unverified");
    name.into()
}

async fn download(session: &Session, args: &SaveArgs, to: &FilePath) -> anyhow::Result<()> {
    let context = || format!("cannot write {}", to.display());
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(to)
        .with_context(context)?;
    let path = Path::new(&["snapshot"]).with_some("stale", args.stale.then_some("true"));
    session
        .client
        .follow(path, |bytes| -> anyhow::Result<()> { file.write_all(bytes).with_context(context) })
        .await?;
    file.sync_all().with_context(context)
}

async fn restore(session: &mut Session, args: &RestoreArgs) -> anyhow::Result<ExitCode> {
    let file = File::open(&args.file)
        .with_context(|| format!("cannot read the snapshot {}", args.file.display()))?;
    let said = session.client.upload(Path::new(&["snapshot"]), file).await?;
    if session.json() {
        let notes: Vec<&str> = said.lines().collect();
        session.screen.json(&json!({"Restored": true, "Notes": notes}))?;
        return Ok(ExitCode::SUCCESS);
    }
    session.screen.line("Restored snapshot")?;
    for note in said.lines() {
        eprintln!("purlin: {note}");
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn inspect(args: &InspectArgs, format: Format) -> anyhow::Result<ExitCode> {
    let found = backup::inspect(&args.file)?;
    let mut screen = Screen::stdout();
    let total: u64 = found.kinds.iter().map(|kind| kind.bytes).sum();
    if format == Format::Json {
        let stats: Vec<_> = found
            .kinds
            .iter()
            .map(|kind| json!({"Name": kind.name, "Sum": kind.bytes, "Count": kind.count}))
            .collect();
        screen.json(&json!({
            "Meta": {
                "ID": found.id, "Size": found.bytes, "Index": found.index, "Term": found.term,
                "Version": found.version, "Revision": found.revision, "TrustDomain": found.trust_domain,
            },
            "Stats": stats,
            "TotalSize": total,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    for (name, value) in [
        ("ID", found.id),
        ("Size", found.bytes.to_string()),
        ("Index", found.index.to_string()),
        ("Term", found.term.to_string()),
        ("Version", found.version.to_string()),
        ("Revision", found.revision.to_string()),
        ("Mesh", found.trust_domain.unwrap_or_else(|| "none".into())),
    ] {
        screen.line(&format!("{name:<12}{value}"))?;
    }
    screen.line("")?;
    let mut table = Table::new(&["Type", "Count", "Size"]);
    for kind in &found.kinds {
        table.row([kind.name.clone(), kind.count.to_string(), size(kind.bytes)]);
    }
    table.row(["Total".into(), String::new(), size(total)]);
    screen.table(&table)?;
    Ok(ExitCode::SUCCESS)
}

/// As people read it.
fn size(bytes: u64) -> String {
    let mut rest = bytes as f64;
    for unit in ["B", "KB", "MB", "GB"] {
        if rest < 1024.0 || unit == "GB" {
            let digits = usize::from(unit != "B" && rest < 100.0);
            return format!("{rest:.digits$}{unit}");
        }
        rest /= 1024.0;
    }
    format!("{bytes}B")
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_are_short() {
        for (bytes, said) in
            [(0, "0B"), (1023, "1023B"), (1024, "1.0KB"), (200_000, "195KB"), (5 << 30, "5.0GB")]
        {
            assert_eq!(size(bytes), said);
        }
    }
}
