// Writes values as Grafana does: reads {"panels": [{"config", "values"}]} and answers
// {"units": [...], "panels": [[{"text", "color"}]]}. The modules are loaded one by one: the
// package's entry needs a browser.
import { readFileSync } from 'node:fs';

// Node 20 has none.
globalThis.navigator ??= { languages: ['en'], language: 'en' };

const modules = new URL('node_modules/@grafana/data/dist/esm/', import.meta.url);
const { getDisplayProcessor } = await import(`${modules}field/displayProcessor.mjs`);
const { createTheme } = await import(`${modules}themes/createTheme.mjs`);
const { formattedValueToString, getValueFormats } = await import(
  `${modules}valueFormats/valueFormats.mjs`
);

const theme = createTheme();
// JSON has no numbers for these.
const SPECIAL = { NaN: NaN, '+Inf': Infinity, '-Inf': -Infinity };

// As Grafana does when it loads a dashboard: the first step has no value in JSON.
function restored(config) {
  const steps = config.thresholds.steps.map((step, index) =>
    index === 0 ? { ...step, value: -Infinity } : step
  );
  return { ...config, thresholds: { ...config.thresholds, steps } };
}

function shown({ config, values }) {
  const numbers = values.map((value) => SPECIAL[value] ?? value);
  const field = { name: 'value', type: 'number', config: restored(config), values: numbers };
  const display = getDisplayProcessor({ field, theme, timeZone: 'utc' });
  return numbers.map((value) => {
    const found = display(value);
    return { text: formattedValueToString(found), color: found.color };
  });
}

const { panels } = JSON.parse(readFileSync(0, 'utf8'));
const units = getValueFormats().flatMap((category) =>
  category.submenu.map((format) => format.value)
);
process.stdout.write(JSON.stringify({ units, panels: panels.map(shown) }));
