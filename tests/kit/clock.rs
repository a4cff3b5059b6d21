//! Processes that believe it is some days later: a shim between them and the C library, made by the C compiler that a
//! build needs anyway. Only the time of day is moved; what waits and measures goes on as before.

use std::path::PathBuf;
use std::process::Command;

use super::host::Host;

const SHIM: &str = r#"
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static time_t ahead(void) {
    const char *days = getenv("LAB_DAYS_AHEAD");
    return days ? (time_t)atol(days) * 86400 : 0;
}

int clock_gettime(clockid_t clock, struct timespec *out) {
    int failed = (int)syscall(SYS_clock_gettime, clock, out);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) out->tv_sec += ahead();
    return failed;
}

int gettimeofday(struct timeval *out, void *zone) {
    struct timespec now;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
    out->tv_sec = now.tv_sec;
    out->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
"#;

/// Has `command`, and all that it starts, live so many days ahead.
pub fn days_ahead(host: &Host, command: &mut Command, days: u32) {
    command.env("LD_PRELOAD", shim(host)).env("LAB_DAYS_AHEAD", days.to_string());
}

fn shim(host: &Host) -> PathBuf {
    let shim = host.dir.join("clock.so");
    if !shim.exists() {
        host.write("clock.c", SHIM);
        host.run("cc", &["-shared", "-fPIC", "-O1", "-o", "clock.so", "clock.c"]);
    }
    shim
}
