//! The figures of several rounds: the median, and how far they lie apart.

use std::fmt;

/// At least one figure.
#[derive(Clone, PartialEq, Debug)]
pub struct Spread(Vec<f64>);

impl Spread {
    /// Of these figures, in any order.
    ///
    /// # Panics
    /// Without any.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Self {
        let mut figures: Vec<f64> = figures.into_iter().collect();
        assert!(!figures.is_empty(), "a measurement has rounds");
        figures.sort_by(f64::total_cmp);
        Self(figures)
    }

    /// The middle one; of an even number of them, the mean of the two in the middle.
    pub fn median(&self) -> f64 {
        let middle = self.0.len() / 2;
        if self.0.len() % 2 == 1 {
            self.0[middle]
        } else {
            f64::midpoint(self.0[middle - 1], self.0[middle])
        }
    }

    /// The smallest.
    pub fn least(&self) -> f64 {
        self.0[0]
    }

    /// The largest.
    pub fn most(&self) -> f64 {
        self.0[self.0.len() - 1]
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&thousands(self.median()))?;
        if self.0.len() > 1 {
            write!(f, " ({}–{})", thousands(self.least()), thousands(self.most()))?;
        }
        Ok(())
    }
}

/// Three digits, or all before the point: `1,234`, `56.7`, `0.89`.
pub fn thousands(figure: f64) -> String {
    match figure.abs() {
        small if small < 10.0 => format!("{figure:.2}"),
        middle if middle < 100.0 => format!("{figure:.1}"),
        _ => {
            let digits = format!("{figure:.0}");
            let mut text = String::new();
            for (position, digit) in digits.chars().enumerate() {
                if position > 0 && digit.is_ascii_digit() && (digits.len() - position).is_multiple_of(3) {
                    text.push(',');
                }
                text.push(digit);
            }
            text
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_stands_before_the_spread() {
        assert_eq!(Spread::of([3.0, 1234.5, 20.0]).to_string(), "20.0 (3.00–1,234)");
        assert_eq!(Spread::of([1.0, 2.0]).median(), 1.5);
        assert_eq!(thousands(1_234_567.0), "1,234,567");
        assert_eq!(thousands(123.0), "123");
    }
}
