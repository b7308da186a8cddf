//! Operators whose functions may fail.
//!
//! Each `try_x` is `x` with a function that returns a `Result`, and `try_x_with` sees the record's [`Meta`] and its key
//! as well. What an error leads to is said by [`Stream::on_failure`]; anything that can be shown will do as one. Nothing of
//! what a function that fails would have put out is put out; what other operators made of the same record stays.

use super::Stream;
use crate::{codec::Data, processor::spread, record::Meta};
use std::fmt::Display;

impl<K: Data, V: Data> Stream<K, V> {
    /// As [`Stream::map`], by a function that may fail.
    pub fn try_map<K2: Data, V2: Data, E: Display>(
        &self,
        mapper: impl Fn(K, V) -> Result<(K2, V2), E> + Send + Sync + 'static,
    ) -> Stream<K2, V2> {
        self.try_map_with(move |_, key, value| mapper(key, value))
    }

    /// As [`Stream::map_with`], by a function that may fail.
    pub fn try_map_with<K2: Data, V2: Data, E: Display>(
        &self,
        mapper: impl Fn(&Meta<'_>, K, V) -> Result<(K2, V2), E> + Send + Sync + 'static,
    ) -> Stream<K2, V2> {
        self.step("map", None, move |cx, at, key, value, down| {
            let mapped = mapper(&cx.meta(), key, value);
            match mapped {
                Ok((key, value)) => down.forward(cx, key, value),
                Err(error) => cx.failed(at, &error),
            }
        })
    }

    /// As [`Stream::map_values`], by a function that may fail.
    ///
    /// ```
    /// use kappa_streams::{Builder, OnFailure, TestDriver, codec::{I64, Utf8}};
    /// let b = Builder::new("parse");
    /// b.stream("texts", (Utf8, Utf8))
    ///     .on_failure(OnFailure::Skip)
    ///     .try_map_values(|text| text.parse::<i64>())
    ///     .to("numbers", (Utf8, I64));
    /// let mut driver = TestDriver::new(&b.build()?).start()?;
    /// let texts = driver.input("texts", (Utf8, Utf8));
    /// texts.pipe(&mut driver, "k".into(), "7".into(), 1)?;
    /// texts.pipe(&mut driver, "k".into(), "seven".into(), 2)?;
    /// assert_eq!(driver.output("numbers", (Utf8, I64))?.drain(&mut driver)?.len(), 1);
    /// assert_eq!(driver.counters().failed, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_map_values<V2: Data, E: Display>(
        &self,
        mapper: impl Fn(V) -> Result<V2, E> + Send + Sync + 'static,
    ) -> Stream<K, V2> {
        self.try_map_values_with(move |_, _, value| mapper(value))
    }

    /// As [`Stream::map_values_with`], by a function that may fail.
    pub fn try_map_values_with<V2: Data, E: Display>(
        &self,
        mapper: impl Fn(&Meta<'_>, &K, V) -> Result<V2, E> + Send + Sync + 'static,
    ) -> Stream<K, V2> {
        self.step_of_key("map-values", None, move |cx, at, key, value, down| {
            let mapped = mapper(&cx.meta(), &key, value);
            match mapped {
                Ok(value) => down.forward(cx, key, value),
                Err(error) => cx.failed(at, &error),
            }
        })
    }

    /// As [`Stream::flat_map`], by a function that may fail; one that returns an `Option` filters and maps.
    pub fn try_flat_map<K2: Data, V2: Data, I: IntoIterator<Item = (K2, V2)> + 'static, E: Display>(
        &self,
        mapper: impl Fn(K, V) -> Result<I, E> + Send + Sync + 'static,
    ) -> Stream<K2, V2> {
        self.try_flat_map_with(move |_, key, value| mapper(key, value))
    }

    /// As [`Stream::flat_map_with`], by a function that may fail.
    pub fn try_flat_map_with<K2: Data, V2: Data, I: IntoIterator<Item = (K2, V2)> + 'static, E: Display>(
        &self,
        mapper: impl Fn(&Meta<'_>, K, V) -> Result<I, E> + Send + Sync + 'static,
    ) -> Stream<K2, V2> {
        self.step("flat-map", None, move |cx, at, key, value, down| {
            let mapped = mapper(&cx.meta(), key, value);
            match mapped {
                Ok(records) => {
                    records.into_iter().for_each(|(key, value)| down.forward(cx, key, value));
                }
                Err(error) => cx.failed(at, &error),
            }
        })
    }

    /// As [`Stream::flat_map_values`], by a function that may fail; one that returns an `Option` filters and maps.
    pub fn try_flat_map_values<V2: Data, I: IntoIterator<Item = V2> + 'static, E: Display>(
        &self,
        mapper: impl Fn(V) -> Result<I, E> + Send + Sync + 'static,
    ) -> Stream<K, V2> {
        self.try_flat_map_values_with(move |_, _, value| mapper(value))
    }

    /// As [`Stream::flat_map_values_with`], by a function that may fail.
    pub fn try_flat_map_values_with<V2: Data, I: IntoIterator<Item = V2> + 'static, E: Display>(
        &self,
        mapper: impl Fn(&Meta<'_>, &K, V) -> Result<I, E> + Send + Sync + 'static,
    ) -> Stream<K, V2> {
        self.step_of_key("flat-map-values", None, move |cx, at, key, value, down| {
            let mapped = mapper(&cx.meta(), &key, value);
            match mapped {
                Ok(values) => spread(cx, key, values, down),
                Err(error) => cx.failed(at, &error),
            }
        })
    }

    /// As [`Stream::filter`], by a function that may fail.
    pub fn try_filter<E: Display>(
        &self,
        predicate: impl Fn(&K, &V) -> Result<bool, E> + Send + Sync + 'static,
    ) -> Stream<K, V> {
        self.try_filter_with(move |_, key, value| predicate(key, value))
    }

    /// As [`Stream::filter_with`], by a function that may fail.
    pub fn try_filter_with<E: Display>(
        &self,
        predicate: impl Fn(&Meta<'_>, &K, &V) -> Result<bool, E> + Send + Sync + 'static,
    ) -> Stream<K, V> {
        self.step_of_key("filter", self.codecs.1.clone(), move |cx, at, key, value, down| {
            let holds = predicate(&cx.meta(), &key, &value);
            match holds {
                Ok(true) => down.forward(cx, key, value),
                Ok(false) => {}
                Err(error) => cx.failed(at, &error),
            }
        })
    }
}
