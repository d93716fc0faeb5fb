//! The best approximation of a low-rank product by one of a lower rank.

/// A dense matrix, row-major.
#[derive(Clone, Debug)]
pub(super) struct Matrix {
    pub rows: usize,
    pub columns: usize,
    pub numbers: Vec<f64>,
}

impl Matrix {
    pub fn zeros(rows: usize, columns: usize) -> Self {
        Matrix {
            rows,
            columns,
            numbers: vec![0.0; rows * columns],
        }
    }

    fn at(&self, row: usize, column: usize) -> f64 {
        self.numbers[row * self.columns + column]
    }

    pub fn transposed(&self) -> Self {
        let mut out = Matrix::zeros(self.columns, self.rows);
        for row in 0..self.rows {
            for column in 0..self.columns {
                out.numbers[column * self.rows + row] = self.at(row, column);
            }
        }
        out
    }

    fn row(&self, row: usize) -> &[f64] {
        &self.numbers[row * self.columns..(row + 1) * self.columns]
    }

    fn row_mut(&mut self, row: usize) -> &mut [f64] {
        &mut self.numbers[row * self.columns..(row + 1) * self.columns]
    }

    /// Two different rows.
    fn two_rows(&mut self, first: usize, second: usize) -> (&mut [f64], &mut [f64]) {
        let (before, after) = self.numbers.split_at_mut(second * self.columns);
        let first = &mut before[first * self.columns..(first + 1) * self.columns];
        (first, &mut after[..self.columns])
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Makes the rows of `q` orthonormal (Gram-Schmidt, twice, which is enough in double precision:
/// Giraud et al. 2005) and returns L with `old rows = L q`. Rows that depend on those before become
/// zero.
fn orthonormalize(q: &mut Matrix) -> Matrix {
    let mut l = Matrix::zeros(q.rows, q.rows);
    for i in 0..q.rows {
        let norm_before = dot(q.row(i), q.row(i)).sqrt();
        for _ in 0..2 {
            for j in 0..i {
                let (earlier, row) = q.two_rows(j, i);
                let share = dot(earlier, row);
                row.iter_mut()
                    .zip(earlier)
                    .for_each(|(x, e)| *x -= share * *e);
                l.numbers[i * l.columns + j] += share;
            }
        }
        let norm = dot(q.row(i), q.row(i)).sqrt();
        let depends = norm <= norm_before * 1e-13;
        let factor = if depends { 0.0 } else { 1.0 / norm };
        q.row_mut(i).iter_mut().for_each(|x| *x *= factor);
        l.numbers[i * l.columns + i] = if depends { 0.0 } else { norm };
    }
    l
}

/// A small square matrix's singular value decomposition by one-sided Jacobi rotations: the rows of
/// `u` become `sigma_i u_i^T`, and `v`, from the identity, gathers the rotations, so that
/// `m^T = sum of (row i of v)^T (row i of u)`. Unordered.
fn jacobi(u: &mut Matrix, v: &mut Matrix) {
    let n = u.rows;
    // A sweep brings the rows closer to orthogonal quadratically; ten do for any size.
    for _ in 0..60 {
        let mut rotated = false;
        for i in 0..n {
            for j in i + 1..n {
                let (alpha, beta) = (dot(u.row(i), u.row(i)), dot(u.row(j), u.row(j)));
                let gamma = dot(u.row(i), u.row(j));
                if gamma.abs() <= 1e-15 * (alpha * beta).sqrt() || gamma == 0.0 {
                    continue;
                }
                rotated = true;
                let zeta = (beta - alpha) / (2.0 * gamma);
                let t = zeta.signum() / (zeta.abs() + zeta.hypot(1.0));
                let t = if zeta == 0.0 { 1.0 } else { t };
                let c = 1.0 / t.hypot(1.0);
                let s = c * t;
                for matrix in [&mut *u, &mut *v] {
                    let (a, b) = matrix.two_rows(i, j);
                    for (x, y) in a.iter_mut().zip(b) {
                        (*x, *y) = (c * *x - s * *y, s * *x + c * *y);
                    }
                }
            }
        }
        if !rotated {
            return;
        }
    }
}

/// `B A`, for `b` `[out, R]` and `a` `[R, in]`, as the best `B' A'` of `rank` (Eckart-Young), with
/// the squares of the norms of what was left out and of the whole.
pub(super) fn reduce(b: &Matrix, a: &Matrix, rank: usize) -> (Matrix, Matrix, f64, f64) {
    // With B^T = L_b Q_b and A = L_a Q_a, B A = Q_b^T (L_b^T L_a) Q_a: only the middle is decomposed.
    let (mut q_b, mut q_a) = (b.transposed(), a.clone());
    let (l_b, l_a) = (orthonormalize(&mut q_b), orthonormalize(&mut q_a));
    let size = a.rows;
    let mut middle = Matrix::zeros(size, size);
    for k in 0..size {
        for i in 0..size {
            let left = l_b.at(k, i);
            for j in 0..size {
                middle.numbers[i * size + j] += left * l_a.at(k, j);
            }
        }
    }
    // middle^T = sum v_i^T (sigma_i u_i): so middle = sum (sigma_i u_i)^T v_i.
    let mut u = middle.transposed();
    let mut v = Matrix::zeros(size, size);
    (0..size).for_each(|i| v.numbers[i * size + i] = 1.0);
    jacobi(&mut u, &mut v);
    let mut order: Vec<(f64, usize)> = (0..size).map(|i| (dot(u.row(i), u.row(i)), i)).collect();
    order.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let whole: f64 = order.iter().map(|(square, _)| square).sum();
    let lost: f64 = order.iter().skip(rank).map(|(square, _)| square).sum();
    let mut new_b = Matrix::zeros(rank, b.rows);
    let mut new_a = Matrix::zeros(rank, a.columns);
    for (at, &(square, i)) in order.iter().take(rank).enumerate() {
        let sigma = square.sqrt();
        if sigma == 0.0 {
            continue;
        }
        // Half of a singular value on either side, as training would leave them.
        let (of_b, of_a) = (1.0 / sigma.sqrt(), sigma.sqrt());
        for k in 0..size {
            let (left, right) = (u.at(i, k) * of_b, v.at(i, k) * of_a);
            let pairs = [(left, &q_b, &mut new_b), (right, &q_a, &mut new_a)];
            for (share, from, to) in pairs {
                let from = from.row(k);
                to.row_mut(at)
                    .iter_mut()
                    .zip(from)
                    .for_each(|(x, q)| *x += share * q);
            }
        }
    }
    (new_b.transposed(), new_a, lost, whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waves(rows: usize, columns: usize, salt: usize) -> Matrix {
        let each = (0..rows * columns).map(|n| ((n * n + 17 * salt) as f64).sin());
        Matrix {
            rows,
            columns,
            numbers: each.collect(),
        }
    }

    fn product(b: &Matrix, a: &Matrix) -> Vec<f64> {
        let mut out = Vec::new();
        for i in 0..b.rows {
            for j in 0..a.columns {
                out.push((0..a.rows).map(|k| b.at(i, k) * a.at(k, j)).sum());
            }
        }
        out
    }

    fn distance(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum()
    }

    #[test]
    fn the_full_rank_gives_the_product_again() {
        let (b, a) = (waves(9, 4, 1), waves(4, 7, 2));
        let (b2, a2, lost, whole) = reduce(&b, &a, 4);
        let (before, after) = (product(&b, &a), product(&b2, &a2));
        assert!(distance(&before, &after) < 1e-24 * whole);
        assert!(lost == 0.0 && (whole - dot(&before, &before)).abs() < 1e-12 * whole);
    }

    #[test]
    fn the_error_told_is_the_error_made_and_a_product_of_a_lower_rank_loses_nothing() {
        let (b, a) = (waves(9, 5, 3), waves(5, 7, 4));
        let (b2, a2, lost, whole) = reduce(&b, &a, 2);
        let made = distance(&product(&b, &a), &product(&b2, &a2));
        assert!((made - lost).abs() < 1e-10 * whole && lost > 1e-3 * whole);
        // The same rows twice: of rank 5, though written with 10.
        let twice = |m: &Matrix| Matrix {
            rows: m.rows * 2,
            columns: m.columns,
            numbers: [m.numbers.clone(), m.numbers.clone()].concat(),
        };
        let (b_10, a_10) = (twice(&b.transposed()).transposed(), twice(&a));
        let (b2, a2, lost, whole) = reduce(&b_10, &a_10, 5);
        assert!(lost < 1e-24 * whole);
        let made = distance(&product(&b_10, &a_10), &product(&b2, &a2));
        assert!(made < 1e-20 * whole);
    }

    #[test]
    fn nothing_reduces_to_nothing() {
        let (b, a) = (Matrix::zeros(3, 2), waves(2, 4, 1));
        let (b2, a2, lost, whole) = reduce(&b, &a, 1);
        assert!(product(&b2, &a2).iter().all(|&x| x == 0.0));
        assert_eq!((lost, whole), (0.0, 0.0));
    }
}
