//! The field of 256 elements in which a kit is split: bytes, added by XOR, multiplied as polynomials modulo
//! x⁸ + x⁴ + x³ + x + 1. No tables and no branch on a value: what is multiplied here is secret.

/// What x⁸ is, modulo the field's polynomial.
const REDUCED: u8 = 0x1b;

/// The product.
pub(super) fn times(mut one: u8, mut other: u8) -> u8 {
    let mut product = 0;
    for _ in 0..8 {
        product ^= one & (other & 1).wrapping_neg();
        one = one << 1 ^ REDUCED & (one >> 7).wrapping_neg();
        other >>= 1;
    }
    product
}

/// By which the product is 1; 0 of 0. It is the 254th power.
pub(super) fn inverse(of: u8) -> u8 {
    let mut power = of;
    for _ in 0..6 {
        power = times(times(power, power), of);
    }
    times(power, power)
}

/// A polynomial's value; the constant comes first.
pub(super) fn value_at(x: u8, coefficients: &[u8]) -> u8 {
    coefficients.iter().rev().fold(0, |value, coefficient| times(value, x) ^ coefficient)
}

/// What each value at `all` weighs in the value at 0 of the polynomial through them. They are different, and none is 0.
pub(super) fn weights(all: &[u8]) -> Vec<u8> {
    let weight = |own: &u8| {
        let others = all.iter().filter(|other| *other != own);
        others.fold(1, |product, other| times(product, times(*other, inverse(other ^ own))))
    };
    all.iter().map(weight).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Multiplies as on paper, then takes the polynomial away from the highest bit down.
    fn product_on_paper(one: u8, other: u8) -> u8 {
        let mut product =
            (0..8).filter(|bit| other >> bit & 1 == 1).fold(0, |sum, bit| sum ^ u16::from(one) << bit);
        for bit in (8..16).rev() {
            if product >> bit & 1 == 1 {
                product ^= 0x11b << (bit - 8);
            }
        }
        product as u8
    }

    #[test]
    fn every_product_is_the_one_on_paper() {
        for one in 0..=255 {
            for other in 0..=255 {
                assert_eq!(times(one, other), product_on_paper(one, other), "{one} {other}");
            }
        }
        // As in AES's own paper.
        assert_eq!(times(0x57, 0x83), 0xc1);
    }

    #[test]
    fn it_is_a_field() {
        for a in 0..=255 {
            assert_eq!(times(a, 1), a);
            assert_eq!(times(a, 0), 0);
            assert_eq!(times(a, inverse(a)), u8::from(a != 0), "{a}");
            for b in 0..=255 {
                assert_eq!(times(a, b), times(b, a));
                assert!(a == 0 || b == 0 || times(a, b) != 0, "{a} {b}");
                for c in [0, 1, 2, 3, 0x1b, 0x53, 0x80, 0xca, 0xff] {
                    assert_eq!(times(a, b ^ c), times(a, b) ^ times(a, c));
                    assert_eq!(times(a, times(b, c)), times(times(a, b), c));
                }
            }
        }
    }

    #[test]
    fn a_polynomial_is_known_at_zero_by_as_many_values_as_it_has_coefficients_and_no_fewer() {
        let coefficients = [0x42, 0, 0x9e, 0xff];
        let at_zero = |points: &[u8]| {
            let weighed = points.iter().zip(weights(points));
            weighed.fold(0, |sum, (x, weight)| sum ^ times(value_at(*x, &coefficients), weight))
        };
        let mut wrong = 0;
        for one in 1..=16 {
            for other in one + 1..=16 {
                for third in other + 1..=16 {
                    wrong += u32::from(at_zero(&[one, other, third]) != 0x42);
                    for fourth in third + 1..=16 {
                        assert_eq!(at_zero(&[one, other, third, fourth]), 0x42);
                        assert_eq!(at_zero(&[fourth, one, third, other]), 0x42);
                    }
                }
            }
        }
        assert_eq!(
            wrong, 560,
            "with all three of 560 it would have to be right by chance, and never is here"
        );
    }

    /// Of two values of which one is known the secret can still be anything: for each there is one coefficient.
    #[test]
    fn one_share_of_two_says_nothing() {
        for known in [0, 1, 0x5a, 0xff] {
            for secret in 0..=255 {
                let fitting = (0..=255).filter(|c| value_at(3, &[secret, *c]) == known).count();
                assert_eq!(fitting, 1, "{known} {secret}");
            }
        }
    }
}
