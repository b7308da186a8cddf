//! Event times as people write them: RFC 3339 in UTC, and milliseconds since 1970.
//!
//! Invariant: what [`format`] writes, [`parse`] reads back to the same millisecond. Days follow the proleptic
//! Gregorian calendar; leap seconds do not exist, as in Kafka. No clock is read here.

const MS_PER_SECOND: i64 = 1_000;
const MS_PER_DAY: i64 = 86_400 * MS_PER_SECOND;

/// Why a text is not a time.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "'{text}' is not a time; write milliseconds since 1970, or UTC like 2013-01-01, 2013-01-01T10:00:00Z or 2013-01-01T10:00:00.250Z"
)]
pub(crate) struct InvalidTime {
    text: String,
}

/// Milliseconds since 1970 of `text`: plain milliseconds, a date, or a date and time in UTC.
pub(crate) fn parse(text: &str) -> Result<i64, InvalidTime> {
    if let Ok(ms) = text.parse() {
        return Ok(ms);
    }
    civil(text).ok_or_else(|| InvalidTime { text: text.to_owned() })
}

/// `ms` as `2013-01-01T10:00:00Z`, with `.mmm` only where milliseconds are not zero.
pub(crate) fn format(ms: i64) -> String {
    let (year, month, day) = civil_from_days(ms.div_euclid(MS_PER_DAY));
    let of_day = ms.rem_euclid(MS_PER_DAY);
    let (hour, minute, second, millis) =
        (of_day / 3_600_000, of_day / 60_000 % 60, of_day / MS_PER_SECOND % 60, of_day % MS_PER_SECOND);
    let fraction = if millis == 0 { String::new() } else { format!(".{millis:03}") };
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

fn civil(text: &str) -> Option<i64> {
    let (date, time) = match text.split_once(['T', ' ']) {
        Some((date, time)) => (date, time.strip_suffix('Z')?),
        None => (text, "00:00:00"),
    };
    let [year, month, day] = fields(date, '-')?;
    let (time, millis) = match time.split_once('.') {
        Some((time, fraction)) => (time, milliseconds(fraction)?),
        None => (time, 0),
    };
    let [hour, minute, second] = fields(time, ':')?;
    let days = days_from_civil(year, month, day);
    if civil_from_days(days) != (year, month, day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    Some(days * MS_PER_DAY + ((hour * 60 + minute) * 60 + second) * MS_PER_SECOND + millis)
}

/// Three unsigned numbers of at most four digits.
fn fields(text: &str, separator: char) -> Option<[i64; 3]> {
    let mut parts = text.split(separator).map(|part| match part.len() {
        1..=4 if part.bytes().all(|byte| byte.is_ascii_digit()) => part.parse().ok(),
        _ => None,
    });
    let fields = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(fields)
}

fn milliseconds(fraction: &str) -> Option<i64> {
    if fraction.is_empty() || fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    format!("{fraction:0<3}").get(..3)?.parse().ok()
}

/// Days since 1970-01-01; years begin in March here, so that the leap day is the last of one.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_instants_are_read_and_written() {
        for (text, ms) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2013-01-01T10:15:00Z", 1_357_035_300_000),
            ("2012-02-29T23:59:59.007Z", 1_330_559_999_007),
            ("1969-12-31T23:59:59Z", -1_000),
            ("2000-03-01T00:00:00Z", 951_868_800_000),
        ] {
            assert_eq!(parse(text), Ok(ms), "{text}");
            assert_eq!(format(ms), text);
        }
    }

    #[test]
    fn every_day_of_eight_centuries_survives_a_round_trip() {
        for days in days_from_civil(1600, 1, 1)..days_from_civil(2400, 1, 1) {
            let (year, month, day) = civil_from_days(days);
            assert_eq!(days_from_civil(year, month, day), days);
        }
    }

    #[test]
    fn short_forms_are_understood() {
        assert_eq!(parse("1357035300000"), Ok(1_357_035_300_000));
        assert_eq!(parse("2013-01-01"), Ok(1_356_998_400_000));
        assert_eq!(parse("2013-01-01T00:00:00.5Z"), Ok(1_356_998_400_500));
    }

    #[test]
    fn what_is_not_a_time_is_refused() {
        for text in [
            "",
            "yesterday",
            "2013-02-29",
            "2013-13-01",
            "2013-01-01T24:00:00Z",
            "2013-01-01T10:00:00",
            "2013-01-01T1:2Z",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
