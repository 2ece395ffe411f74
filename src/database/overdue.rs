//! Statements that nobody waits for any more.
//!
//! They keep their slots in the pool for as long as the database works on them: otherwise a client that
//! keeps hanging up, or a commit that waits for a standby, would open session after session.

use std::{sync::atomic::Ordering, time::Duration};

use sea_orm::{ConnectionTrait, DbErr, Statement};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep, timeout_at},
};

use crate::database::{address::Options, begun::Work, pool::Database};

/// How often the database is asked whether it still works on them.
const PATIENCE: Duration = Duration::from_secs(1);
/// Whether a session of ours has been working on one statement for this many seconds.
const WORKS_FOR: &str = "SELECT EXISTS (
    SELECT FROM pg_stat_activity
    WHERE usename = session_user AND datname = current_database() AND pid <> pg_backend_pid()
        AND application_name = current_setting('application_name')
        AND state = 'active' AND query_start < clock_timestamp() - make_interval(secs => $1))";

impl Database {
    /// Waits for the answer, or until there can be none. `turn` is that of a write.
    pub async fn see_through(
        self,
        mut work: Work,
        deadline: Instant,
        turn: Option<OwnedSemaphorePermit>,
    ) {
        if let Ok(answer) = timeout_at(deadline, &mut work).await {
            return self.note_answer(&answer);
        }
        match self.options() {
            // It runs in a thread of this process.
            Options::Sqlite(_) => self.note_answer(&work.await),
            // PostgreSQL ends a read at its limit; if it has not, it is unreachable. A commit that waits
            // for a standby has no limit. With a single connection, there is none left to ask on.
            Options::Postgres(_) if turn.is_some() && self.pool_size() > 1 => {
                self.overdue_writes.fetch_add(1, Ordering::Relaxed);
                self.while_it_works(work, deadline).await;
                self.overdue_writes.fetch_sub(1, Ordering::Relaxed);
            }
            Options::Postgres(_) => {}
        }
    }

    /// Waits for the answer for as long as the reachable server works on it. After a failover, no packet
    /// may ever tell that the old server is gone.
    async fn while_it_works(&self, mut work: Work, deadline: Instant) {
        let made = &self.connector().made;
        loop {
            let is_gone = async {
                let gone = matches!(self.works_since(deadline).await, Ok(false));
                if !gone {
                    sleep(PATIENCE).await;
                }
                gone
            };
            tokio::select! {
                answer = &mut work => return self.note_answer(&answer),
                // The database may be back: asks at once, since writers are waiting for their turns.
                () = made.notified() => {}
                gone = is_gone => if gone { return },
            }
        }
    }

    /// Whether a session of ours is working on a statement that began before `deadline`.
    async fn works_since(&self, deadline: Instant) -> Result<bool, DbErr> {
        let seconds = deadline.elapsed().as_secs_f64();
        let backend = self.get_database_backend();
        let ask = Statement::from_sql_and_values(backend, WORKS_FOR, [seconds.into()]);
        match self.query_one_raw(ask).await? {
            Some(row) => row.try_get_by_index(0),
            None => Ok(true),
        }
    }
}
