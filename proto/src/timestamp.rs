//! Timestamps, as the log, errors and commands show them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SECONDS_PER_DAY: u64 = 24 * 60 * 60;

/// A time in UTC, to the microsecond: `2026-01-31T23:59:59.000001Z`. Times before 1970 are shown as its beginning.
#[must_use]
pub fn show_utc(time: SystemTime) -> String {
    let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (year, month, day) = date(since_epoch.as_secs() / SECONDS_PER_DAY);
    let second = since_epoch.as_secs() % SECONDS_PER_DAY;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let micros = since_epoch.subsec_micros();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

/// As [`show_utc`], for a time in milliseconds since 1970.
#[must_use]
pub fn show_unix_milliseconds(milliseconds: u64) -> String {
    let time = UNIX_EPOCH.checked_add(Duration::from_millis(milliseconds));
    show_utc(time.unwrap_or(UNIX_EPOCH))
}

/// A time in seconds since 1970, to the second: `2026-01-31T23:59:59Z`. Times that no clock here can have are shown as
/// the beginning of 1970.
#[must_use]
pub fn show_unix_seconds(seconds: u64) -> String {
    let milliseconds = seconds.checked_mul(1000).unwrap_or_default();
    let shown = show_unix_milliseconds(milliseconds);
    format!("{}Z", &shown[..shown.find('.').unwrap_or(shown.len())])
}

/// Year, month and day of a number of days since 1970-01-01, in the Gregorian calendar.
///
/// Years are counted from March, so that a leap day is the last day of its year, in eras of 400 years from year 0.
fn date(days_since_1970: u64) -> (u64, u64, u64) {
    const DAYS_PER_ERA: u64 = 146_097;
    const DAYS_FROM_0000_03_01: u64 = 719_468;
    let days = days_since_1970 + DAYS_FROM_0000_03_01;
    let (era, day_of_era) = (days / DAYS_PER_ERA, days % DAYS_PER_ERA);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_day_of_eight_hundred_years_follows_the_one_before() {
        let is_leap = |year: u64| {
            year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
        };
        let mut expected = (1970, 1, 1);
        for day in 0..800 * 366 {
            assert_eq!(date(day), expected);
            let (year, month, day) = expected;
            let last = match month {
                2 => 28 + u64::from(is_leap(year)),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            expected = match (month, day) {
                (12, 31) => (year + 1, 1, 1),
                _ if day == last => (year, month + 1, 1),
                _ => (year, month, day + 1),
            };
        }
    }

    #[test]
    fn a_time_shows_to_the_microsecond() {
        let time = UNIX_EPOCH + Duration::from_micros(1_769_903_999_000_001);
        assert_eq!(show_utc(time), "2026-01-31T23:59:59.000001Z");
        assert_eq!(show_unix_milliseconds(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(show_unix_seconds(1_769_903_999), "2026-01-31T23:59:59Z");
        assert_eq!(show_unix_seconds(u64::MAX), "1970-01-01T00:00:00Z");
    }
}
