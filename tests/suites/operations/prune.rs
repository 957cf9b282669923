//! `system prune`.

use anyhow::{Result, ensure};
use tests::Client;
use tests::engine::BUSYBOX;

use crate::with_engine;

#[test]
fn everything_unused_goes_and_everything_used_stays() -> Result<()> {
    for client in [Client::Cais, Client::Docker] {
        with_engine(&format!("prune-{client:?}").to_lowercase(), |engine| {
            engine.ok(&["run", "--name", "ended", "-v", "/anonymous", BUSYBOX, "sh", "-c", "echo some > /file"])?;
            engine.ok(&["network", "create", "empty"])?;
            engine.ok(&["network", "create", "used"])?;
            engine.ok(&["volume", "create", "named"])?;
            engine.ok(&["run", "-d", "--name", "stays", "--network", "used", BUSYBOX, "sleep", "300"])?;
            let refused = engine.client(client)?.args(["system", "prune", "-f", "--volumes", "--filter", "until=1h"]).run()?;
            ensure!(refused.code == 1 && refused.stderr.contains("until"), "{refused}");
            let shown = engine.client(client)?.args(["system", "prune", "-f", "--volumes"]).ok()?.stdout;
            for part in ["Deleted Containers:\n", "Deleted Networks:\nempty\n", "Deleted Volumes:\n", "Total reclaimed space: "] {
                ensure!(shown.contains(part), "{part:?} is not in {shown}");
            }
            ensure!(engine.ok(&["ps", "-a", "--format", "{{.Names}}"])?.text() == "stays");
            ensure!(engine.ok(&["volume", "ls", "-q"])?.text() == "named");
            ensure!(engine.ok(&["network", "ls", "-q", "--filter", "name=used"])?.stdout.lines().count() == 1);
            ensure!(engine.ok(&["images", "-q"])?.stdout.lines().count() == 1);
            Ok(())
        })?;
    }
    Ok(())
}
