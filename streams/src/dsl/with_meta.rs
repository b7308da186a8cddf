//! Operators whose functions also see what stands beside key and value: where the record was read, its time, its headers.
//!
//! Each `x_with` is `x` with a [`Meta`] as the first argument, and the key wherever there is one. What it shows behind a
//! repartition topic is said at [`Meta`].

use super::Stream;
use crate::{codec::Data, processor::spread, record::Meta};

impl<K: Data, V: Data> Stream<K, V> {
    /// As [`Stream::map`], seeing the record's metadata.
    pub fn map_with<K2: Data, V2: Data>(
        &self,
        mapper: impl Fn(&Meta<'_>, K, V) -> (K2, V2) + Send + Sync + 'static,
    ) -> Stream<K2, V2> {
        self.step("map", None, move |cx, _, key, value, down| {
            let (key, value) = mapper(&cx.meta(), key, value);
            down.forward(cx, key, value);
        })
    }

    /// As [`Stream::map_values_keyed`], seeing the record's metadata.
    ///
    /// ```
    /// use kappa_streams::{Builder, TestDriver, codec::Utf8};
    /// let b = Builder::new("audit");
    /// b.stream("orders", (Utf8, Utf8))
    ///     .map_values_with(|meta, _, order| format!("{order}: {}-{} at {}", meta.topic(), meta.partition(), meta.offset()))
    ///     .to("audit", (Utf8, Utf8));
    /// let mut driver = TestDriver::new(&b.build()?).start()?;
    /// driver.input("orders", (Utf8, Utf8)).pipe(&mut driver, "ann".into(), "tea".into(), 7)?;
    /// let audit = driver.output("audit", (Utf8, Utf8))?.drain(&mut driver)?;
    /// assert_eq!(audit[0].value, "tea: orders-0 at 0");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn map_values_with<V2: Data>(
        &self,
        mapper: impl Fn(&Meta<'_>, &K, V) -> V2 + Send + Sync + 'static,
    ) -> Stream<K, V2> {
        self.step_of_key("map-values", None, move |cx, _, key, value, down| {
            let value = mapper(&cx.meta(), &key, value);
            down.forward(cx, key, value);
        })
    }

    /// As [`Stream::flat_map`], seeing the record's metadata.
    pub fn flat_map_with<K2: Data, V2: Data, I: IntoIterator<Item = (K2, V2)> + 'static>(
        &self,
        mapper: impl Fn(&Meta<'_>, K, V) -> I + Send + Sync + 'static,
    ) -> Stream<K2, V2> {
        self.step("flat-map", None, move |cx, _, key, value, down| {
            let records = mapper(&cx.meta(), key, value);
            for (key, value) in records {
                down.forward(cx, key, value);
            }
        })
    }

    /// As [`Stream::flat_map_values_keyed`], seeing the record's metadata.
    pub fn flat_map_values_with<V2: Data, I: IntoIterator<Item = V2> + 'static>(
        &self,
        mapper: impl Fn(&Meta<'_>, &K, V) -> I + Send + Sync + 'static,
    ) -> Stream<K, V2> {
        self.step_of_key("flat-map-values", None, move |cx, _, key, value, down| {
            let values = mapper(&cx.meta(), &key, value);
            spread(cx, key, values, down);
        })
    }

    /// As [`Stream::filter`], seeing the record's metadata.
    pub fn filter_with(
        &self,
        predicate: impl Fn(&Meta<'_>, &K, &V) -> bool + Send + Sync + 'static,
    ) -> Stream<K, V> {
        self.step_of_key("filter", self.codecs.1.clone(), move |cx, _, key, value, down| {
            if predicate(&cx.meta(), &key, &value) {
                down.forward(cx, key, value);
            }
        })
    }

    /// As [`Stream::select_key`], seeing the record's metadata.
    pub fn select_key_with<K2: Data>(
        &self,
        key: impl Fn(&Meta<'_>, &K, &V) -> K2 + Send + Sync + 'static,
    ) -> Stream<K2, V> {
        self.step("select-key", self.codecs.1.clone(), move |cx, _, old, value, down| {
            let key = key(&cx.meta(), &old, &value);
            down.forward(cx, key, value);
        })
    }

    /// Shows every record to a function, with its metadata, and passes it on.
    pub fn peek_with(&self, look: impl Fn(&Meta<'_>, &K, &V) + Send + Sync + 'static) -> Stream<K, V> {
        self.step_of_key("peek", self.codecs.1.clone(), move |cx, _, key, value, down| {
            look(&cx.meta(), &key, &value);
            down.forward(cx, key, value);
        })
    }
}
