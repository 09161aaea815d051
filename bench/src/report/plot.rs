//! Plots as SVG text, to be put into the page as they are.

use plotters::coord::Shift;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, ValueFormatter};
use plotters::prelude::*;
use std::fmt::Display;
use std::ops::Range;

const SIZE: (u32, u32) = (860, 360);
/// Colours that are told apart by most eyes (Okabe and Ito).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];

/// A named line.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// What the legend calls it.
    pub name: String,
    /// Its points.
    pub points: Vec<(f64, f64)>,
}

/// What a plot looks like apart from its data.
#[derive(Clone, Copy)]
pub struct Frame<'a> {
    /// Above the plot.
    pub title: &'a str,
    /// Below the x axis.
    pub x: &'a str,
    /// Beside the y axis.
    pub y: &'a str,
    /// Text of a tick of the x axis.
    pub x_tick: fn(f64) -> String,
    /// Ticks of the x axis are at least so far apart.
    pub x_step_min: f64,
    /// Whether y grows by factors: values that are not above 0 are left out.
    pub y_log: bool,
}

/// Draws lines. Empty text when there is nothing to draw.
///
/// # Errors
/// What the plotting library says.
pub fn lines(frame: Frame<'_>, series: &[Series]) -> Result<String, String> {
    let drawable = |point: &(f64, f64)| {
        point.0.is_finite() && point.1.is_finite() && (!frame.y_log || point.1 > 0.0)
    };
    let series: Vec<Series> = series
        .iter()
        .map(|s| Series {
            name: s.name.clone(),
            points: s.points.iter().copied().filter(drawable).collect(),
        })
        .filter(|s| !s.points.is_empty())
        .collect();
    if series.is_empty() {
        return Ok(String::new());
    }
    let mut svg = String::new();
    let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
    draw(&root, frame, &series).map_err(|e| e.to_string())?;
    root.present().map_err(|e| e.to_string())?;
    drop(root);
    Ok(svg)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Problem = Box<dyn std::error::Error>;

fn draw(root: &Area<'_>, frame: Frame<'_>, series: &[Series]) -> Result<(), Problem> {
    root.fill(&WHITE)?;
    let all = || series.iter().flat_map(|s| s.points.iter());
    let x_max = all().map(|p| p.0).fold(f64::MIN, f64::max);
    let x_min = all().map(|p| p.0).fold(f64::MAX, f64::min);
    let y_max = all().map(|p| p.1).fold(f64::MIN, f64::max);
    let y_min = all().map(|p| p.1).fold(f64::MAX, f64::min);
    let x_max = x_max.max(x_min + 1e-9);
    let x_axis = Ticked { range: x_min..x_max, ticks: ticks(x_min, x_max, frame.x_step_min) };
    let mut builder = ChartBuilder::on(root);
    builder
        .caption(frame.title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(45)
        .y_label_area_size(70);
    if frame.y_log {
        let y_range = (y_min / 1.5..y_max * 1.5).log_scale();
        let mut chart = builder.build_cartesian_2d(x_axis, y_range)?;
        mesh(&mut chart, frame)?;
        curves(&mut chart, series)
    } else {
        let mut chart = builder.build_cartesian_2d(x_axis, 0.0..(y_max * 1.1).max(1e-9))?;
        mesh(&mut chart, frame)?;
        curves(&mut chart, series)
    }
}

/// A linear axis with chosen ticks.
struct Ticked {
    range: Range<f64>,
    ticks: Vec<f64>,
}

impl Ranged for Ticked {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        let share = (value - self.range.start) / (self.range.end - self.range.start);
        from + (share * f64::from(to - from)).round() as i32
    }

    fn key_points<H: KeyPointHint>(&self, _hint: H) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

type Chart<'a, 'b, Y> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<Ticked, Y>>;

/// Multiples of 1, 2 or 5 times a power of ten: at most eight, and `step_min` or more apart.
fn ticks(min: f64, max: f64, step_min: f64) -> Vec<f64> {
    let rough = ((max - min) / 7.0).max(step_min);
    let power = 10_f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|f| f * power >= rough * 0.999);
    let step = power * factor.unwrap_or(10.0);
    let first = (min / step).ceil() as i64;
    let last = (max / step).floor() as i64;
    (first..=last).map(|i| i as f64 * step).collect()
}

fn mesh<Y>(chart: &mut Chart<'_, '_, Y>, frame: Frame<'_>) -> Result<(), Problem>
where
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    chart
        .configure_mesh()
        .label_style(("sans-serif", 15))
        .x_desc(frame.x)
        .y_desc(frame.y)
        .x_label_formatter(&|x| (frame.x_tick)(*x))
        .y_label_formatter(&|y| short(*y))
        .light_line_style(RGBColor(240, 240, 240))
        .draw()?;
    Ok(())
}

fn curves<'a, Y>(chart: &mut Chart<'a, 'a, Y>, series: &[Series]) -> Result<(), Problem>
where
    Y: Ranged<ValueType = f64> + 'a,
{
    for (index, line) in series.iter().enumerate() {
        let style = COLOURS[index % COLOURS.len()].stroke_width(2);
        chart
            .draw_series(LineSeries::new(line.points.iter().copied(), style))?
            .label(line.name.clone())
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], style));
    }
    chart
        .configure_series_labels()
        .label_font(("sans-serif", 15))
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(RGBColor(200, 200, 200))
        .draw()?;
    Ok(())
}

/// A tick's number with at most three significant digits and a suffix.
pub fn short(value: f64) -> String {
    let with = |value: f64, suffix: &dyn Display| {
        let text = if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") };
        let trimmed = text.trim_end_matches('0').trim_end_matches('.');
        let text = if text.contains('.') { trimmed } else { text.as_str() };
        format!("{text}{suffix}")
    };
    match value.abs() {
        v if v >= 1e6 => with(value / 1e6, &"M"),
        v if v >= 1e3 => with(value / 1e3, &"k"),
        _ => with(value, &""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(y_log: bool) -> Frame<'static> {
        let x_tick = |x| format!("{x:.0}");
        Frame { title: "a title", x: "x", y: "y", x_tick, x_step_min: 0.0, y_log }
    }

    fn series(points: &[(f64, f64)]) -> Vec<Series> {
        vec![Series { name: "a line".to_owned(), points: points.to_vec() }]
    }

    #[test]
    fn a_plot_is_one_svg_element_with_title_and_legend() {
        for y_log in [false, true] {
            let svg = lines(frame(y_log), &series(&[(0.0, 1.0), (1.0, 10.0)])).unwrap();
            assert!(svg.trim_start().starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
            assert!(svg.contains("a title") && svg.contains("a line"));
            assert_eq!(svg.matches("<svg").count(), 1);
        }
    }

    #[test]
    fn nothing_to_draw_draws_nothing_and_one_point_is_enough() {
        assert_eq!(lines(frame(false), &[]).unwrap(), "");
        assert_eq!(lines(frame(true), &series(&[(0.0, 0.0), (1.0, f64::NAN)])).unwrap(), "");
        assert_ne!(lines(frame(false), &series(&[(0.0, 0.0)])).unwrap(), "");
    }

    #[test]
    fn ticks_are_few_round_and_not_closer_than_asked() {
        assert_eq!(ticks(0.0, 3.0, 1.0), [0.0, 1.0, 2.0, 3.0]);
        assert_eq!(ticks(0.0, 60.0, 0.0), [0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0]);
        assert_eq!(ticks(1500.0, 9000.0, 0.0), [2000.0, 4000.0, 6000.0, 8000.0]);
        assert_eq!(ticks(0.2, 0.3, 1.0), Vec::<f64>::new());
        for max in 1..1000 {
            assert!(ticks(0.0, f64::from(max), 0.0).len() <= 8, "{max}");
        }
    }

    #[test]
    fn tick_texts_are_short() {
        assert_eq!(short(1500.0), "1.5k");
        assert_eq!(short(200.0), "200");
        assert_eq!(short(0.25), "0.25");
        assert_eq!(short(2e6), "2M");
    }
}
