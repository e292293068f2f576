//! Rooms and tanks as a few heat capacities, stepped exactly: no step is too long.

/// A room (or a stirred tank) of one heat capacity behind one resistance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Room {
    /// Temperature now, °C.
    pub temperature_c: f64,
    /// Loss to outdoors, W/K.
    pub loss_w_per_k: f64,
    /// Heat capacity, J/K.
    pub capacity_j_per_k: f64,
}

impl Room {
    /// Lets `seconds` pass with constant heat and outdoor temperature.
    pub fn step(&mut self, heat_w: f64, outdoor_c: f64, seconds: f64) {
        let rate = self.loss_w_per_k / self.capacity_j_per_k;
        let slope = (heat_w - self.loss_w_per_k * (self.temperature_c - outdoor_c)) / self.capacity_j_per_k;
        self.temperature_c += slope * reach(-rate, seconds);
    }
}

/// How far a unit slope carries in a time if it fades at a rate (1/s, negative): `(e^rt - 1)/r`.
fn reach(rate: f64, seconds: f64) -> f64 {
    if rate == 0.0 { seconds } else { (rate * seconds).exp_m1() / rate }
}

/// Two coupled heat capacities, each with its own loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TwoNodes {
    /// Temperatures now, °C.
    pub temperature_c: [f64; 2],
    /// Heat capacities, J/K.
    pub capacity_j_per_k: [f64; 2],
    /// Loss of each to its surroundings, W/K.
    pub loss_w_per_k: [f64; 2],
    /// Between the two, W/K; more than 0.
    pub between_w_per_k: f64,
}

impl TwoNodes {
    /// Lets `seconds` pass with constant heat into each node and constant surroundings.
    pub fn step(&mut self, heat_w: [f64; 2], around_c: f64, seconds: f64) {
        let (c, h, g, t) =
            (self.capacity_j_per_k, self.loss_w_per_k, self.between_w_per_k, self.temperature_c);
        let a = [[-(g + h[0]) / c[0], g / c[0]], [g / c[1], -(g + h[1]) / c[1]]];
        let slope = |i: usize| (heat_w[i] + h[i] * (around_c - t[i]) + g * (t[1 - i] - t[i])) / c[i];
        let slope = [slope(0), slope(1)];
        // Both eigenvalues are real, distinct (g > 0) and not positive.
        let mean = (a[0][0] + a[1][1]) / 2.0;
        let apart = (((a[0][0] - a[1][1]) / 2.0).powi(2) + a[0][1] * a[1][0]).sqrt();
        let (fast, slow) = (mean - apart, (mean + apart).min(0.0));
        let (far, near) = (reach(slow, seconds), reach(fast, seconds));
        for (i, row) in a.iter().enumerate() {
            let turned = row[0] * slope[0] + row[1] * slope[1];
            self.temperature_c[i] +=
                (far * (turned - fast * slope[i]) - near * (turned - slow * slope[i])) / (slow - fast);
        }
    }
}

/// A room as air and mass: the air follows a radiator in minutes, the walls in hours.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MassiveRoom(TwoNodes);

impl MassiveRoom {
    /// At rest at one temperature. Losses of the air (leaks, windows) and of the mass (walls), W/K;
    /// capacities J/K; exchange between both, W/K.
    pub fn new(at_c: f64, air: (f64, f64), mass: (f64, f64), exchange_w_per_k: f64) -> Self {
        Self(TwoNodes {
            temperature_c: [at_c; 2],
            capacity_j_per_k: [air.0, mass.0],
            loss_w_per_k: [air.1, mass.1],
            between_w_per_k: exchange_w_per_k.max(1e-3),
        })
    }

    /// The air, °C: what a sensor sees.
    pub fn air_c(&self) -> f64 {
        self.0.temperature_c[0]
    }

    /// The walls, °C.
    pub fn mass_c(&self) -> f64 {
        self.0.temperature_c[1]
    }

    /// Lets `seconds` pass; the heat goes into the air.
    pub fn step(&mut self, heat_w: f64, outdoor_c: f64, seconds: f64) {
        self.0.step([heat_w, 0.0], outdoor_c, seconds);
    }
}

/// Heat capacity of a litre of water, J/K.
const LITRE_J_PER_K: f64 = 4186.0;

/// A hot-water tank of two layers: heated at the bottom, drawn from the top.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tank {
    nodes: TwoNodes,
    litres: f64,
}

impl Tank {
    /// At one temperature, with a loss to its surroundings, W/K.
    pub fn new(litres: f64, at_c: f64, loss_w_per_k: f64) -> Self {
        let nodes = TwoNodes {
            temperature_c: [at_c; 2],
            capacity_j_per_k: [litres / 2.0 * LITRE_J_PER_K; 2],
            loss_w_per_k: [loss_w_per_k / 2.0; 2],
            // Water at rest conducts little: a 200 L tank's layers are some 0.6 m apart.
            between_w_per_k: 1.0,
        };
        Self { nodes, litres }
    }

    /// Top and bottom, °C.
    pub fn layers_c(&self) -> [f64; 2] {
        self.nodes.temperature_c
    }

    /// The whole, °C.
    pub fn mean_c(&self) -> f64 {
        (self.nodes.temperature_c[0] + self.nodes.temperature_c[1]) / 2.0
    }

    /// Lets `seconds` pass with heat into the bottom; warmer water below rises.
    pub fn step(&mut self, heat_w: f64, around_c: f64, seconds: f64) {
        self.nodes.step([0.0, heat_w], around_c, seconds);
        let [top, bottom] = self.nodes.temperature_c;
        if bottom > top {
            self.nodes.temperature_c = [self.mean_c(); 2];
        }
    }

    /// Draws water from the top, cold water follows at the bottom; returns what came out, °C.
    pub fn draw(&mut self, litres: f64, cold_c: f64) -> f64 {
        let half = self.litres / 2.0;
        let mut left = litres.max(0.0);
        let (drawn, mut heat) = (left, 0.0);
        while left > 0.0 {
            let part = left.min(half);
            let [top, bottom] = self.nodes.temperature_c;
            heat += part * top;
            let share = part / half;
            self.nodes.temperature_c = [top + share * (bottom - top), bottom + share * (cold_c - bottom)];
            left -= part;
        }
        if drawn > 0.0 { heat / drawn } else { self.nodes.temperature_c[0] }
    }
}
