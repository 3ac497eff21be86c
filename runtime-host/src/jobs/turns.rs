//! Whose job is next.
//!
//! Jobs of the host and of operators come first, in the order in which they came. Then users take turns, and the
//! sessions of a user: sessions are free to make, so they share what their user has.
//!
//! Invariants:
//! - A user runs at most [`Share::per_user`] jobs at a time, all users together at most [`Share::of_users`]. So jobs of
//!   one user that hang leave threads to others, and those of all users leave some to operators.
//! - A user is in `in_turn` exactly if a job of theirs waits and they run fewer than they may.
//! - A user without any job is not in `users`.

use std::collections::{BTreeMap, VecDeque};

pub(super) type Job = Box<dyn FnOnce() + Send>;

/// For whom a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JobOwner {
    /// The host itself, or an operator.
    Host,
    /// This user, in this session.
    User { user: u32, session: u64 },
}

/// How many jobs of users may run at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    /// Of each user.
    pub(crate) per_user: usize,
    /// Of all users.
    pub(crate) of_users: usize,
}

impl Share {
    /// All threads are for whoever comes.
    pub(crate) const fn all(threads: usize) -> Self {
        Self {
            per_user: threads,
            of_users: threads,
        }
    }
}

/// Jobs that wait, and how many run for whom.
pub(super) struct Turns {
    share: Share,
    of_host: VecDeque<Job>,
    users: BTreeMap<u32, UserJobs>,
    in_turn: VecDeque<u32>,
    /// Jobs of users that run.
    running: usize,
}

#[derive(Default)]
struct UserJobs {
    running: usize,
    waiting: usize,
    by_session: BTreeMap<u64, VecDeque<Job>>,
    /// Sessions with a job that waits, in turn.
    in_turn: VecDeque<u64>,
}

impl Turns {
    pub(super) fn new(share: Share) -> Self {
        Self {
            share,
            of_host: VecDeque::new(),
            users: BTreeMap::new(),
            in_turn: VecDeque::new(),
            running: 0,
        }
    }

    pub(super) fn push(&mut self, owner: JobOwner, job: Job) {
        let JobOwner::User { user, session } = owner else {
            self.of_host.push_back(job);
            return;
        };
        let jobs = self.users.entry(user).or_default();
        let was_in_turn = jobs.waiting > 0 && jobs.running < self.share.per_user;
        jobs.push(session, job);
        if !was_in_turn && jobs.running < self.share.per_user {
            self.in_turn.push_back(user);
        }
    }

    /// The next job that may run, if there is one. [`Self::finish`] is to be called when it has.
    pub(super) fn next(&mut self) -> Option<(JobOwner, Job)> {
        if let Some(job) = self.of_host.pop_front() {
            return Some((JobOwner::Host, job));
        }
        if self.running == self.share.of_users {
            return None;
        }
        let user = self.in_turn.pop_front()?;
        let jobs = self.users.get_mut(&user).expect("a job of theirs waits");
        let (session, job) = jobs.pop();
        self.running += 1;
        jobs.running += 1;
        if jobs.waiting > 0 && jobs.running < self.share.per_user {
            self.in_turn.push_back(user);
        }
        Some((JobOwner::User { user, session }, job))
    }

    /// Notes that a job has run.
    pub(super) fn finish(&mut self, owner: JobOwner) {
        let JobOwner::User { user, .. } = owner else {
            return;
        };
        self.running -= 1;
        let jobs = self.users.get_mut(&user).expect("a job of theirs ran");
        let was_held_back = jobs.running == self.share.per_user;
        jobs.running -= 1;
        if jobs.waiting > 0 && was_held_back {
            self.in_turn.push_back(user);
        }
        if jobs.waiting == 0 && jobs.running == 0 {
            self.users.remove(&user);
        }
    }

    /// How many jobs could run now, were there threads for them.
    pub(super) fn ready_count(&self) -> usize {
        let startable = |user: &u32| {
            let jobs = &self.users[user];
            jobs.waiting.min(self.share.per_user - jobs.running)
        };
        let of_users: usize = self.in_turn.iter().map(startable).sum();
        self.of_host.len() + of_users.min(self.share.of_users - self.running)
    }

    /// Whether no job waits.
    pub(super) fn is_empty(&self) -> bool {
        self.of_host.is_empty() && self.users.values().all(|jobs| jobs.waiting == 0)
    }
}

impl UserJobs {
    fn push(&mut self, session: u64, job: Job) {
        self.waiting += 1;
        let jobs = self.by_session.entry(session).or_default();
        if jobs.is_empty() {
            self.in_turn.push_back(session);
        }
        jobs.push_back(job);
    }

    /// The next job, of the session whose turn it is. There is one.
    fn pop(&mut self) -> (u64, Job) {
        let session = self.in_turn.pop_front().expect("a job waits");
        let jobs = self.by_session.get_mut(&session).expect("it is in turn");
        let job = jobs.pop_front().expect("it is in turn");
        match jobs.is_empty() {
            true => drop(self.by_session.remove(&session)),
            false => self.in_turn.push_back(session),
        }
        self.waiting -= 1;
        (session, job)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARE: Share = Share {
        per_user: 2,
        of_users: 3,
    };

    const fn of(user: u32, session: u64) -> JobOwner {
        JobOwner::User { user, session }
    }

    fn turns(owners: impl IntoIterator<Item = JobOwner>) -> Turns {
        let mut turns = Turns::new(SHARE);
        for owner in owners {
            turns.push(owner, Box::new(|| ()));
        }
        turns
    }

    /// Whose the next job is.
    fn next(turns: &mut Turns) -> Option<JobOwner> {
        turns.next().map(|(owner, _)| owner)
    }

    #[test]
    fn a_user_with_many_jobs_and_sessions_waits_for_one_with_few() {
        let many = (0..6).map(|job| of(1, job % 2));
        let mut turns = turns(many.chain([of(2, 9), JobOwner::Host]));
        assert_eq!(turns.ready_count(), 4, "three of users and the host's");
        assert_eq!(next(&mut turns), Some(JobOwner::Host));
        assert_eq!(next(&mut turns), Some(of(1, 0)));
        assert_eq!(next(&mut turns), Some(of(2, 9)));
        assert_eq!(next(&mut turns), Some(of(1, 1)), "its sessions take turns");
        assert_eq!(next(&mut turns), None, "users have no more threads");
        turns.push(JobOwner::Host, Box::new(|| ()));
        assert_eq!(next(&mut turns), Some(JobOwner::Host));
        turns.finish(of(2, 9));
        assert_eq!(turns.ready_count(), 0);
        assert_eq!(
            next(&mut turns),
            None,
            "one user has no more than its share"
        );
        turns.push(of(3, 1), Box::new(|| ()));
        assert_eq!(next(&mut turns), Some(of(3, 1)));
    }

    #[test]
    fn every_job_runs_once_and_nothing_is_left() {
        let owners = (0..60).map(|job| of(job % 3, u64::from(job % 5)));
        let mut turns = turns(owners);
        let (mut running, mut count) = (Vec::new(), 0);
        while !turns.is_empty() {
            while let Some(owner) = next(&mut turns) {
                running.push(owner);
                count += 1;
                assert!(running.len() <= SHARE.of_users);
                let JobOwner::User { user, .. } = owner else {
                    unreachable!("all are users'")
                };
                let own = |other: &&JobOwner| matches!(other, JobOwner::User { user: of, .. } if *of == user);
                assert!(running.iter().filter(own).count() <= SHARE.per_user);
            }
            turns.finish(running.swap_remove(count % running.len()));
        }
        assert_eq!(count, 60);
        for owner in running {
            turns.finish(owner);
        }
        assert!(turns.users.is_empty() && turns.in_turn.is_empty() && turns.running == 0);
    }
}
