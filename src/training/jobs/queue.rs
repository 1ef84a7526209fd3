//! Whose turn it is: a pure function of who waits and who had how much.

use std::collections::BTreeMap;

/// A job that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting<'a> {
    /// The job.
    pub job: &'a str,
    /// Its tenant.
    pub tenant: &'a str,
    /// Seconds since 1970.
    pub since: i64,
}

/// The job to begin: the oldest one of the tenant that had the least training time of late, so that many jobs of one tenant do not
/// keep another's waiting. `used` is in milliseconds; who is missing there had none.
pub fn next<'a>(waiting: &[Waiting<'a>], used: &BTreeMap<String, i64>) -> Option<&'a str> {
    let had = |tenant: &str| used.get(tenant).copied().unwrap_or(0);
    waiting.iter().min_by_key(|job| (had(job.tenant), job.since, job.job)).map(|job| job.job)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tenant_that_had_least_comes_first_and_its_oldest_job_before_its_others() {
        let job = |job, tenant, since| Waiting { job, tenant, since };
        let waiting = [job("a1", "a", 1), job("a2", "a", 2), job("b2", "b", 9), job("b1", "b", 8), job("c1", "c", 3)];
        let used = |pairs: &[(&str, i64)]| pairs.iter().map(|(tenant, used)| ((*tenant).to_owned(), *used)).collect();
        assert_eq!(next(&waiting, &used(&[])), Some("a1"), "nobody had any: the oldest");
        assert_eq!(next(&waiting, &used(&[("a", 10), ("c", 20)])), Some("b1"));
        assert_eq!(next(&waiting, &used(&[("a", 10), ("b", 30), ("c", 20)])), Some("a1"));
        assert_eq!(next(&[], &used(&[])), None);
    }
}
